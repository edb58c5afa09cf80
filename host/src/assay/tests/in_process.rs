//! A runner without processes: scripted models, and what goes wrong with workers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::assay::runner::{Runner, Session};
use crate::domain::trace::Trace;
use crate::engine::{EngineKind, LoadSpec, Model, ModelInfo, QuantizeSpec, ScoreItem};
use crate::worker::{Ending, Plan, Progress, Stamp, WorkerEnd, WorkerMemory, WorkerSummary};

/// Runs scripted models in this process and watches what the pipeline does.
#[derive(Default)]
pub struct InProcess {
    live: Rc<Cell<u32>>,
    pub log: Rc<RefCell<Vec<String>>>,
    /// The candidate refuses the challenge with this place among all it is asked.
    pub refuse_nth: Option<usize>,
    refused: Rc<Cell<usize>>,
    /// Nothing may be loaded.
    pub refuse_plan: bool,
    /// So many starts of the candidate end for memory.
    pub no_memory: Cell<u32>,
    /// The candidate ends for memory when it was asked for so many rounds.
    pub no_memory_after: Cell<Option<usize>>,
    /// What the script of an honest copy of the reference says besides the reference's.
    pub honest: String,
}

struct Loaded {
    model: Box<dyn Model>,
    live: Rc<Cell<u32>>,
    refuse_nth: Option<usize>,
    asked: Rc<Cell<usize>>,
    no_memory_after: Option<usize>,
}

fn killed_for_memory() -> WorkerEnd {
    WorkerEnd { ending: Ending::OomKilled, detail: "no memory".to_owned(), hint: None }
}

/// A script with one seed for all, and what it says besides.
pub fn script(more: &str) -> String {
    format!(r#"{{"schema": "assayd.scripted/1", "vocab": 64, "seed": 5{more}}}"#)
}

impl Runner for InProcess {
    fn start(&self, spec: &LoadSpec, _: &mut dyn FnMut(Progress)) -> Result<Box<dyn Session>, WorkerEnd> {
        let name = spec.paths[0].file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(self.live.get(), 0, "two models at a time: {name} starts");
        self.log.borrow_mut().push(format!("load {name}"));
        let starts_left = self.no_memory.get();
        if name == "candidate" && starts_left > 0 {
            self.no_memory.set(starts_left - 1);
            return Err(killed_for_memory());
        }
        let spec = LoadSpec { engine: EngineKind::Scripted, ..spec.clone() };
        let model = crate::engine::load(&spec, &mut |_| {}).map_err(|error| WorkerEnd {
            ending: Ending::Refused,
            detail: error.to_string(),
            hint: None,
        })?;
        self.live.set(1);
        let refuse_nth = self.refuse_nth.filter(|_| name == "candidate");
        Ok(Box::new(Loaded {
            model,
            live: Rc::clone(&self.live),
            refuse_nth,
            asked: Rc::clone(&self.refused),
            no_memory_after: if name == "candidate" { self.no_memory_after.take() } else { None },
        }))
    }

    fn quantize(&self, spec: &QuantizeSpec) -> Result<(), WorkerEnd> {
        self.log.borrow_mut().push("quantize".to_owned());
        std::fs::write(&spec.target, script(&self.honest)).unwrap();
        Ok(())
    }

    fn plan(&self, _: &[LoadSpec], _: &[Stamp]) -> Result<Option<Plan>, WorkerEnd> {
        if !self.refuse_plan {
            return Ok(None);
        }
        Err(WorkerEnd { ending: Ending::Refused, detail: "not loaded: too large".to_owned(), hint: None })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.live.set(0);
    }
}

impl Session for Loaded {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    fn tokenize(&mut self, texts: &[String], add_special: bool) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        Ok(texts.iter().map(|text| self.model.tokenize(text, add_special).unwrap()).collect())
    }

    fn generate(&mut self, prompts: &[Vec<u32>], new_tokens: u32) -> Result<Vec<Vec<u32>>, WorkerEnd> {
        Ok(self.model.generate(prompts, new_tokens, &mut |_| {}).unwrap())
    }

    fn score(
        &mut self,
        items: &[ScoreItem],
        each: &mut dyn FnMut(usize, Result<Trace, String>),
    ) -> Result<(), WorkerEnd> {
        let (refuse, asked) = (self.refuse_nth, Rc::clone(&self.asked));
        match &mut self.no_memory_after {
            Some(0) => return Err(killed_for_memory()),
            Some(left) => *left -= 1,
            None => {}
        }
        let done = self.model.score(items, &mut |i, trace| {
            let nth = refuse.map(|_| asked.replace(asked.get() + 1));
            each(
                i,
                if nth.is_some() && refuse == nth { Err("refused on purpose".to_owned()) } else { trace },
            );
            Ok(())
        });
        done.map_err(|error| WorkerEnd { ending: Ending::Crashed, detail: error.to_string(), hint: None })
    }

    fn finish(self: Box<Self>) -> WorkerSummary {
        WorkerSummary {
            ending: Ending::Ok,
            load_seconds: 0.0,
            peak_rss_anon_bytes: 1,
            peak_rss_file_bytes: 1,
            memory: WorkerMemory::default(),
            changed: None,
            peak_rss_bytes: None,
        }
    }
}
