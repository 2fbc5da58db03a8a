//! Any text as a configuration: it is refused with a report that can be shown, or what it means
//! says the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::config::{self, Format, Overrides};

fuzz_target!(|text: &str| {
    let environment = [("VAR".to_owned(), "10".to_owned())];
    match config::parse("fuzz.toml", text, &environment, &Overrides::default()) {
        Err(report) => {
            assert!(report.errors() > 0, "refused without a reason");
            report.render(Format::Human, true);
            report.render(Format::Human, false);
        }
        Ok(loaded) => {
            loaded.warnings.render(Format::Human, false);
            let said = loaded.effective_toml();
            match config::parse("effective", &said, &[], &Overrides::default()) {
                Ok(again) => assert_eq!(again.config, loaded.config, "{said}"),
                Err(report) => panic!("{}\n{said}", report.render(Format::Human, false)),
            }
        }
    }
});
