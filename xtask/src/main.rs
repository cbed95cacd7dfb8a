//! Repository automation: `cargo xtask tidy` checks what clippy cannot know, `cargo xtask bench`
//! measures.

mod bench;
mod tidy;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy::run(),
        ["bench", "up", models @ ..] => bench::up(models),
        _ => bail!("usage: cargo xtask tidy | cargo xtask bench up [MODEL...]"),
    }
}
