//! Chat templates rendered: within their steps and their length, or refused with words. Memory is
//! bounded by the worker's process and not in here, so a template that doubles a text over and
//! over ends this target and is no finding.
#![no_main]

use assayd_fuzz::domain::budget;
use assayd_fuzz::render::{Conversation, Message, rendered};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let conversation = Conversation {
        template: String::from_utf8_lossy(bytes).into_owned(),
        messages: vec![
            message("system", "Be brief."),
            message("user", "Hi <b>\n"),
            message("assistant", " {{ 1 }} "),
            message("user", "Bye?"),
        ],
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
    };
    match rendered(&conversation) {
        Ok(text) => assert!(text.len() <= budget::CHAT_TEXT_BYTES),
        Err(why) => assert!(!why.is_empty()),
    }
});
