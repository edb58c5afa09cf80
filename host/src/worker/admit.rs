//! Before a load: what it will take, whether it may, and what is given up so that it may.
//!
//! Invariants: nothing is loaded here, only counted; settings are given up in one order
//! (context, sequences side by side, format of the cache, experts and then layers on an accelerator), each step
//! written down, and only those that the caller said may be; several models that must agree
//! are planned together and keep equal settings. Deliberately absent: any load.

use super::ending::{Ending, WorkerEnd};
use super::estimate::{Seen, dry_run};
use super::limits::WorkerLimits;
use crate::domain::budget;
use crate::domain::footprint::Footprint;
use crate::engine::{ALL_LAYERS, KvType, LoadSpec};
use crate::governor::admission::{Budget, Caps, Demand, Guardrail, check};

/// What may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    /// Shortest context that is still of use; the present one if nothing may be given up.
    pub context_min: u32,
    pub parallel: bool,
    pub kv_type: bool,
    /// Experts go to the CPU, and then layers do.
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
    plan_within(specs, policy, budget, &mut |spec| dry_run(spec, limits))
}

/// How what a load takes is counted.
type Count<'a> = &'a mut dyn FnMut(&LoadSpec) -> Result<(Footprint, Seen), WorkerEnd>;

/// As [`plan`], with a given budget and a given way to count.
fn plan_within(
    specs: &[LoadSpec],
    policy: &Policy,
    budget: Budget,
    count: Count<'_>,
) -> Result<Plan, WorkerEnd> {
    let mut specs = specs.to_vec();
    let mut steps = Vec::new();
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
        let refusal = match check(plan.demand(), budget, policy.guardrail) {
            Ok(()) => return Ok(plan),
            Err(refusal) => refusal,
        };
        if let Some(step) = give_up(&mut plan.specs, policy.give_up) {
            (specs, steps) = (plan.specs, plan.steps);
            steps.push(step);
            continue;
        }
        if policy.force {
            plan.forced = Some(refusal.to_string());
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
            detail: format!("not loaded: {refusal}; {floor} bytes are to stay free on the machine{tried}"),
            hint: Some(refusal.hint()),
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
    if may.accelerator && first.gpu_layers != 0 && first.cpu_experts < ALL_LAYERS {
        all(specs, &|spec| spec.cpu_experts = ALL_LAYERS);
        return Some("the experts on the CPU".to_owned());
    }
    if may.accelerator && first.gpu_layers > 0 {
        let fewer = first.gpu_layers / 2;
        all(specs, &|spec| spec.gpu_layers = fewer);
        return Some(format!("{fewer} layers on the accelerator instead of {}", first.gpu_layers));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::footprint::DeviceBytes;
    use crate::engine::EngineKind;
    use crate::governor::admission::Limiting;

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
        let planned = |mib, give_up| plan_within(&specs(), &policy(give_up), budget(mib), &mut count);
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
        let mut placed: Vec<LoadSpec> =
            specs().into_iter().map(|spec| LoadSpec { gpu_layers: 4, ..spec }).collect();
        let may = GiveUp { context_min: u32::MAX, parallel: false, kv_type: false, accelerator: true };
        let steps: Vec<String> = std::iter::from_fn(|| give_up(&mut placed, may)).collect();
        assert_eq!(
            steps,
            [
                "the experts on the CPU",
                "2 layers on the accelerator instead of 4",
                "1 layers on the accelerator instead of 2",
                "0 layers on the accelerator instead of 1",
            ]
        );
        assert!(placed.iter().all(|spec| (spec.cpu_experts, spec.gpu_layers) == (ALL_LAYERS, 0)));
        let end = planned(160, all).unwrap_err();
        assert_eq!(end.ending, Ending::Refused);
        assert!(end.detail.contains("108.00 MiB") && end.detail.contains("a cache of q8_0"), "{end}");
        let end = planned(200, GiveUp::NOTHING).unwrap_err();
        assert!(!end.detail.contains("even with"), "{end}");
        assert!(end.hint.unwrap().contains("--max-memory"));
        let forced = Policy { force: true, ..policy(GiveUp::NOTHING) };
        let plan = plan_within(&specs(), &forced, budget(200), &mut count).unwrap();
        assert!(plan.forced.unwrap().contains("612.00 MiB") && plan.limit_bytes.is_none());
    }
}
