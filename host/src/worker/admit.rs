//! Before a load: what it will take, whether it may, and what is given up so that it may.
//!
//! Invariants: nothing is loaded here, only counted; settings are given up in one order
//! (context, sequences side by side, format of the cache, and where an accelerator is what is
//! short of memory its experts and then its layers), each step written down, and only those that
//! the caller said may be; several models that must agree are planned together and keep equal
//! settings. Deliberately absent: any load.

use super::ending::{Ending, WorkerEnd};
use super::estimate::{Seen, dry_run};
use super::limits::WorkerLimits;
use crate::domain::budget;
use crate::domain::footprint::Footprint;
use crate::domain::size::ByteSize;
use crate::engine::{EngineKind, KvType, LoadSpec};
use crate::governor::admission::{Budget, Caps, Demand, Guardrail, Limiting, check};
use crate::model::footprint::place::{self, Placement};

/// What may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    /// Shortest context that is still of use; the present one if nothing may be given up.
    pub context_min: u32,
    pub parallel: bool,
    pub kv_type: bool,
    /// Experts leave accelerators, and then layers do.
    pub accelerator: bool,
}

impl GiveUp {
    pub const NOTHING: Self =
        Self { context_min: u32::MAX, parallel: false, kv_type: false, accelerator: false };
}

/// The rules of one admission.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub guardrail: Guardrail,
    pub caps: Caps,
    /// Load whatever the numbers say; limits still hold while it runs.
    pub force: bool,
    pub give_up: GiveUp,
}

/// A load that may begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In the order asked for, with what was given up.
    pub specs: Vec<LoadSpec>,
    pub footprints: Vec<Footprint>,
    /// What was given up, in order; for people.
    pub steps: Vec<String>,
    pub budget: Budget,
    /// What a worker is to be held to.
    pub limit_bytes: Option<u64>,
    /// How the dry run was held; the load will be held alike.
    pub seen: Seen,
    /// Why it would have been refused, if somebody insisted.
    pub forced: Option<String>,
}

impl Plan {
    /// What workers under this plan are held to; the rest is as in `base`.
    pub fn limits(&self, base: WorkerLimits, policy: &Policy) -> WorkerLimits {
        let forced = policy.force;
        WorkerLimits {
            memory_bytes: self.limit_bytes,
            demand: self.demand(),
            guardrail: if forced { Guardrail::Off } else { policy.guardrail },
            // By force only what a person set counts, not what the machine has free.
            caps: Caps { min_free_bytes: policy.caps.min_free_bytes.filter(|_| !forced), ..policy.caps },
            min_free_bytes: policy.caps.min_free_bytes.filter(|_| !forced),
            ..base
        }
    }

    /// The most that any of the models takes; they run one after the other.
    pub fn demand(&self) -> Demand {
        self.footprints.iter().map(demand_of).fold(Demand::default(), |most, next| Demand {
            held_bytes: most.held_bytes.max(next.held_bytes),
            mapped_bytes: most.mapped_bytes.max(next.mapped_bytes),
        })
    }
}

/// A footprint as the desk understands it.
pub fn demand_of(footprint: &Footprint) -> Demand {
    Demand { held_bytes: footprint.held_bytes(), mapped_bytes: footprint.mapped_bytes() }
}

/// Plans loads that run one after the other with equal settings.
///
/// # Errors
/// REFUSED with the numbers when they do not fit and nothing more may be given up; else the way
/// a dry run ended.
pub fn plan(specs: &[LoadSpec], limits: &WorkerLimits, policy: &Policy) -> Result<Plan, WorkerEnd> {
    let budget = Budget::now(policy.caps);
    plan_within(specs, policy, budget, &mut |spec| dry_run(spec, limits), &most_that_fits)
}

/// The same for one load that gives up nothing: the limits it may begin under.
pub(super) fn alone(spec: &LoadSpec, limits: &WorkerLimits) -> Result<WorkerLimits, WorkerEnd> {
    let policy =
        Policy { guardrail: limits.guardrail, caps: limits.caps, force: false, give_up: GiveUp::NOTHING };
    let plan = plan(std::slice::from_ref(spec), limits, &policy)?;
    Ok(plan.limits(limits.clone(), &policy))
}

/// How what a load takes is counted.
type Count<'a> = &'a mut dyn FnMut(&LoadSpec) -> Result<(Footprint, Seen), WorkerEnd>;

/// How much of a model fits accelerators with these budgets; `None` where nobody can tell.
type Place<'a> = &'a dyn Fn(&LoadSpec, &[u64]) -> Option<Placement>;

/// [`Place`] by formula from the headers.
fn most_that_fits(spec: &LoadSpec, budgets: &[u64]) -> Option<Placement> {
    let first = spec.paths.first().filter(|_| spec.engine == EngineKind::LlamaCpp)?;
    Some(place::load(first, spec.shape()).ok()?.place(budgets))
}

/// As [`plan`], with a given budget and given ways to count and to place.
fn plan_within(
    specs: &[LoadSpec],
    policy: &Policy,
    budget: Budget,
    count: Count<'_>,
    place: Place<'_>,
) -> Result<Plan, WorkerEnd> {
    let mut specs = specs.to_vec();
    let mut steps = Vec::new();
    let mut moved = Moved::default();
    loop {
        let mut footprints = Vec::with_capacity(specs.len());
        let mut seen = Seen::default();
        for spec in &specs {
            let (footprint, held) = count(spec)?;
            footprints.push(footprint);
            seen = held;
        }
        let floor = policy.caps.min_free_bytes.unwrap_or(budget::MIN_FREE_BYTES);
        let mut plan =
            Plan { specs, footprints, steps, budget, limit_bytes: Some(budget.bytes), seen, forced: None };
        let host = check(plan.demand(), budget, policy.guardrail).map_err(|refusal| (None, refusal));
        let fits = host.and_then(|()| {
            plan.footprints.iter().flat_map(on_accelerators).try_for_each(|(name, demand, budget)| {
                check(demand, budget, policy.guardrail).map_err(|refusal| (Some(name.to_owned()), refusal))
            })
        });
        let Err((device, refusal)) = fits else { return Ok(plan) };
        if let Some(step) = give_up(&mut plan.specs, policy.give_up) {
            (specs, steps) = (plan.specs, plan.steps);
            steps.push(step);
            continue;
        }
        if device.is_some() && policy.give_up.accelerator && moved.further(&mut plan, policy, place) {
            (specs, steps) = (plan.specs, plan.steps);
            continue;
        }
        let refusal_hint = refusal.hint();
        let refusal = device.map_or_else(|| refusal.to_string(), |name| format!("on {name} {refusal}"));
        if policy.force {
            plan.forced = Some(refusal);
            // What was set by a person holds; what the machine happens to have free does not.
            plan.limit_bytes = policy.caps.max_memory_bytes;
            return Ok(plan);
        }
        let tried = if plan.steps.is_empty() {
            String::new()
        } else {
            format!(", even with {}", plan.steps.join(", "))
        };
        return Err(WorkerEnd {
            ending: Ending::Refused,
            detail: format!(
                "not loaded: {refusal}; {} are to stay free on the machine{tried}",
                ByteSize(floor)
            ),
            hint: Some(refusal_hint),
        });
    }
}

/// Gives up one more thing in all of them; says what, or `None` when nothing is left.
pub fn give_up(specs: &mut [LoadSpec], may: GiveUp) -> Option<String> {
    let all = |specs: &mut [LoadSpec], change: &dyn Fn(&mut LoadSpec)| specs.iter_mut().for_each(change);
    let first = specs.first()?.clone();
    let half = (first.context / 2).next_multiple_of(256);
    if half < first.context && half >= may.context_min {
        all(specs, &|spec| spec.context = half);
        return Some(format!("a context of {half} instead of {}", first.context));
    }
    if may.parallel && first.parallel > 1 {
        let fewer = first.parallel / 2;
        all(specs, &|spec| spec.parallel = fewer);
        return Some(format!("{fewer} sequences at once instead of {}", first.parallel));
    }
    let smaller = match first.kv_type {
        KvType::F32 => Some((KvType::F16, "f16")),
        KvType::F16 => Some((KvType::Q8_0, "q8_0")),
        KvType::Q8_0 => None,
    };
    if let Some((kv_type, name)) = smaller.filter(|_| may.kv_type) {
        all(specs, &|spec| spec.kv_type = kv_type);
        return Some(format!("a cache of {name}"));
    }
    None
}

/// What a model would take of each accelerator that it has something on, and what is free there.
pub fn on_accelerators(footprint: &Footprint) -> impl Iterator<Item = (&str, Demand, Budget)> {
    footprint.devices.iter().filter_map(|device| {
        let demand = Demand { held_bytes: device.total_bytes(), mapped_bytes: 0 };
        let budget = Budget { bytes: device.free_bytes?, limiting: Limiting::Accelerator };
        Some((device.name.as_str(), demand, budget))
    })
}

/// What has left accelerators so far.
#[derive(Debug, Default)]
struct Moved {
    /// How often the formula was too hopeful; a sixteenth of the room is held back for each.
    tries: u64,
    /// Whether the last of a plan's steps is about it.
    told: bool,
}

impl Moved {
    /// Moves experts, and then layers, off accelerators that are too full: by formula, which the
    /// next count may find too hopeful. False once there is nothing left to move.
    fn further(&mut self, plan: &mut Plan, policy: &Policy, place: Place<'_>) -> bool {
        // One of two models that are compared may be of an engine that uses the CPU only.
        let Some(first) = plan.specs.iter().find(|spec| spec.gpu_layers != 0) else { return false };
        let (layers, experts) = (first.gpu_layers, first.cpu_experts);
        let known = |footprint: &Footprint| -> Vec<u64> {
            on_accelerators(footprint).map(|(_, _, free)| policy.guardrail.room(free.bytes)).collect()
        };
        let Some(room) = plan.footprints.iter().map(known).max_by_key(Vec::len) else { return false };
        while self.tries <= SIXTEENTHS {
            let left = SIXTEENTHS - self.tries;
            self.tries += 1;
            let budgets: Vec<u64> = room.iter().map(|room| room / SIXTEENTHS * left).collect();
            let there = plan.specs.iter_mut().filter(|spec| spec.gpu_layers != 0);
            let mut there: Vec<&mut LoadSpec> = there.collect();
            let placed: Option<Vec<Placement>> = there.iter().map(|spec| place(spec, &budgets)).collect();
            let Some(placed) = placed else { return false };
            let fewer = placed.iter().map(|placed| placed.gpu_layers).min().unwrap_or(0);
            let fewer = i32::try_from(fewer).unwrap_or(i32::MAX);
            let fewer = if layers < 0 { fewer } else { fewer.min(layers) };
            let more = placed.iter().map(|placed| placed.cpu_experts).max().unwrap_or(0);
            let more = u32::try_from(more).unwrap_or(u32::MAX).max(experts);
            if (fewer, more) == (layers, experts) {
                continue;
            }
            for spec in &mut there {
                (spec.gpu_layers, spec.cpu_experts) = (fewer, more);
            }
            if self.told {
                plan.steps.pop();
            }
            self.told = true;
            plan.steps.push(match (fewer, more) {
                (0, _) => "no layers on accelerators".to_owned(),
                (_, 0) => format!("{fewer} layers on accelerators, which is what fits"),
                _ => format!(
                    "{fewer} layers on accelerators, and the experts of the first {more} on the CPU, which is what fits"
                ),
            });
            return true;
        }
        false
    }
}

/// Parts that the room of accelerators is cut into.
const SIXTEENTHS: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::footprint::DeviceBytes;
    use crate::engine::ALL_LAYERS;
    use crate::model::footprint::place::{Layer, Load};

    const MIB: u64 = 1 << 20;

    /// A model whose cache takes 1 MiB for each 16 cells of f32, and 100 MiB besides.
    fn count(spec: &LoadSpec) -> Result<(Footprint, Seen), WorkerEnd> {
        let cells = u64::from(spec.context * spec.parallel);
        let share = match spec.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        };
        let cpu = DeviceBytes {
            name: "CPU".to_owned(),
            kv_bytes: cells * MIB / 64 * share,
            compute_bytes: 100 * MIB,
            ..DeviceBytes::default()
        };
        Ok((Footprint { devices: vec![cpu], ..Footprint::default() }, Seen::default()))
    }

    fn specs() -> Vec<LoadSpec> {
        let spec = LoadSpec::judged(EngineKind::Scripted, vec!["a".into()], 2048, 1);
        vec![spec.clone(), LoadSpec { paths: vec!["b".into()], ..spec }]
    }

    fn policy(give_up: GiveUp) -> Policy {
        Policy { guardrail: Guardrail::Relaxed, caps: Caps::default(), force: false, give_up }
    }

    #[test]
    fn things_are_given_up_in_order_and_written_down_and_only_what_may_be() {
        let budget = |mib: u64| Budget { bytes: mib * MIB, limiting: Limiting::MaxMemory };
        let all = GiveUp { context_min: 512, parallel: true, kv_type: true, accelerator: true };
        let planned =
            |mib, give_up| plan_within(&specs(), &policy(give_up), budget(mib), &mut count, &|_, _| None);
        let plain = planned(1000, all).unwrap();
        assert_eq!(plain.steps, Vec::<String>::new());
        assert_eq!((plain.specs, plain.limit_bytes), (specs(), Some(1000 * MIB)));
        // 2048 * 4 / 16 = 512 MiB, then 256, 128 (context), 64, 32 (sequences), 16, 8 (format).
        let less = planned(200, all).unwrap();
        assert_eq!(
            less.steps,
            [
                "a context of 1024 instead of 2048",
                "a context of 512 instead of 1024",
                "2 sequences at once instead of 4",
                "1 sequences at once instead of 2",
            ]
        );
        assert!(less.specs.iter().all(|spec| (spec.context, spec.parallel) == (512, 1)), "both alike");
        let least = planned(172, all).unwrap();
        assert_eq!(least.steps.last().unwrap(), "a cache of q8_0");
        let end = planned(160, all).unwrap_err();
        assert_eq!(end.ending, Ending::Refused);
        assert!(end.detail.contains("108.00 MiB") && end.detail.contains("a cache of q8_0"), "{end}");
        let end = planned(200, GiveUp::NOTHING).unwrap_err();
        assert!(!end.detail.contains("even with"), "{end}");
        assert!(end.hint.unwrap().contains("--max-memory"));
        let forced = Policy { force: true, ..policy(GiveUp::NOTHING) };
        let plan = plan_within(&specs(), &forced, budget(200), &mut count, &|_, _| None).unwrap();
        assert!(plan.forced.unwrap().contains("612.00 MiB") && plan.limit_bytes.is_none());
    }

    /// Eight layers of 100 MiB with as many experts again, three times over, and an output.
    fn mixture() -> Load {
        let layer = Layer { dense: 100 * MIB, experts: 300 * MIB };
        Load { layers: vec![layer; 8], output: 50 * MIB, scratch: 20 * MIB }
    }

    #[test]
    fn experts_and_then_layers_leave_an_accelerator_that_is_too_full() {
        let load = mixture();
        // What is there takes a tenth more than the formula says.
        let count = |free: u64| {
            let load = load.clone();
            move |spec: &LoadSpec| {
                let layers = usize::try_from(spec.gpu_layers).unwrap_or(9).min(9);
                let on = (9 - layers..9).map(|at| match load.layers.get(at) {
                    Some(layer) if at < spec.cpu_experts as usize => layer.dense,
                    Some(layer) => layer.dense + layer.experts,
                    None => load.output,
                });
                let taken: u64 = on.sum::<u64>() * 11 / 10;
                let cpu = DeviceBytes { name: "CPU".to_owned(), ..DeviceBytes::default() };
                let card = DeviceBytes {
                    name: "CARD0".to_owned(),
                    model_bytes: taken,
                    free_bytes: Some(free * MIB),
                    ..DeviceBytes::default()
                };
                let devices = if layers == 0 { vec![cpu] } else { vec![cpu, card] };
                Ok((Footprint { devices, ..Footprint::default() }, Seen::default()))
            }
        };
        let host = Budget { bytes: 1000 * MIB, limiting: Limiting::Available };
        let planned = |gpu_layers: i32, free: u64, may: GiveUp| {
            let asked: Vec<LoadSpec> =
                specs().into_iter().map(|spec| LoadSpec { gpu_layers, ..spec }).collect();
            let place = |_: &LoadSpec, budgets: &[u64]| Some(load.place(budgets));
            plan_within(&asked, &policy(may), host, &mut count(free), &place)
        };
        let may = GiveUp { accelerator: true, ..GiveUp::NOTHING };
        for (asked, free, placed, step) in [
            (-1, 4000, (-1, 0), None),
            (4, 2000, (4, 0), None),
            // By formula all nine with the experts of four layers are 2050 MiB of the 2136 that may
            // be taken; in fact they are 2255.
            (-1, 2200, (9, 5), Some("9 layers on accelerators, and the experts of the first 5 on the CPU")),
            (8, 2200, (8, 5), Some("8 layers on accelerators, and the experts of the first 5 on the CPU")),
            (-1, 600, (5, 8), Some("5 layers on accelerators, and the experts of the first 8 on the CPU")),
            (-1, 100, (0, 0), Some("no layers on accelerators")),
        ] {
            let plan = planned(asked, free, may).unwrap();
            let spec = &plan.specs[0];
            assert_eq!((spec.gpu_layers, spec.cpu_experts), placed, "{asked} {free}: {:?}", plan.steps);
            assert!(plan.specs.iter().all(|other| other.gpu_layers == spec.gpu_layers), "both alike");
            assert_eq!(plan.steps.len(), usize::from(step.is_some()), "{:?}", plan.steps);
            assert!(plan.steps.iter().all(|said| said.starts_with(step.unwrap())), "{:?}", plan.steps);
        }
        // A model that runs on the CPU only stays there, and does not keep the other on a full card.
        let mut asked: Vec<LoadSpec> =
            specs().into_iter().map(|spec| LoadSpec { gpu_layers: -1, ..spec }).collect();
        asked[0].gpu_layers = 0;
        let place = |_: &LoadSpec, budgets: &[u64]| Some(load.place(budgets));
        let plan = plan_within(&asked, &policy(may), host, &mut count(600), &place).unwrap();
        let placed: Vec<_> = plan.specs.iter().map(|spec| (spec.gpu_layers, spec.cpu_experts)).collect();
        assert_eq!(placed, [(0, 0), (5, 8)], "{:?}", plan.steps);
        let end = planned(-1, 600, GiveUp::NOTHING).unwrap_err();
        assert_eq!(end.ending, Ending::Refused);
        assert!(
            end.detail.contains("on CARD0 it would take") && end.detail.contains("(accelerator)"),
            "{end}"
        );
        assert!(end.hint.unwrap().contains("--n-cpu-moe"));
        // The machine's own shortage is not helped by giving it more.
        let tight = Budget { bytes: 0, ..host };
        let asked: Vec<LoadSpec> = specs()
            .into_iter()
            .map(|spec| LoadSpec { gpu_layers: -1, cpu_experts: ALL_LAYERS, ..spec })
            .collect();
        let place = |_: &LoadSpec, budgets: &[u64]| Some(load.place(budgets));
        let end = plan_within(&asked, &policy(may), tight, &mut count(600), &place).unwrap_err();
        assert!(end.detail.contains("(available)") && !end.detail.contains("even with"), "{end}");
    }
}
