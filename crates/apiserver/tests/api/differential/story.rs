//! Reads stories: blocks of a title (`# ...`, `# given ...` for preparations), a request line (`[as USER] METHOD PATH`), lines
//! `Header: value` or `save NAME POINTER`, and a body that begins with `{` or `[`.

/// One request of a story.
#[derive(Debug)]
pub struct Step {
    pub name: String,
    pub user: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Names for parts of the answer, which later steps write as `${NAME}`.
    pub saves: Vec<(String, String)>,
}

impl Step {
    /// Whether the step only prepares others, so that its code is compared and its body is not.
    pub fn is_given(&self) -> bool {
        self.name.starts_with("given ")
    }
}

pub fn parse(text: &str) -> Vec<Step> {
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    blocks.map(step).collect()
}

fn step(block: &str) -> Step {
    let (title, rest) = block.split_once('\n').expect("a title and a request");
    let name = title.strip_prefix("# ").expect("a block begins with its title").to_owned();
    let (request, mut rest) = rest.split_once('\n').unwrap_or((rest, ""));
    let mut words: Vec<&str> = request.split(' ').collect();
    let mut user = "admin";
    if words[0] == "as" {
        user = words[1];
        words.drain(..2);
    }
    let (mut headers, mut saves) = (Vec::new(), Vec::new());
    while !rest.is_empty() && !rest.starts_with(['{', '[', '!']) {
        let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
        if let Some(save) = line.strip_prefix("save ") {
            let (name, pointer) = save.split_once(' ').expect("save NAME POINTER");
            saves.push((name.to_owned(), pointer.to_owned()));
        } else {
            let (name, value) = line.split_once(": ").expect("Header: value");
            headers.push((name.to_owned(), value.to_owned()));
        }
        rest = next;
    }
    let has_type = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if !has_type && !rest.is_empty() {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
    }
    Step {
        name,
        user: user.to_owned(),
        method: words[0].to_owned(),
        path: words[1].to_owned(),
        headers,
        body: rest.strip_prefix('!').unwrap_or(rest).to_owned(),
        saves,
    }
}
