//! Tables as istioctl aligns them.

use std::io::Write as _;

/// The space between columns in most of istioctl's tables.
pub const WIDE: usize = 5;
/// The space between columns in the table of listeners.
pub const NARROW: usize = 1;

/// Lines of cells.
#[derive(Debug)]
pub struct Table {
    text: String,
    padding: usize,
}

impl Table {
    /// A table with a line of headings.
    pub fn new(padding: usize, headings: &[&str]) -> Self {
        let mut table = Self { text: String::new(), padding };
        table.row(headings);
        table
    }

    /// Adds a line.
    pub fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.text.push('\t');
            }
            // A cell is one line, whatever it holds.
            self.text.extend(cell.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        self.text.push('\n');
    }

    /// The aligned text.
    pub fn finish(self) -> String {
        align(&self.text, self.padding)
    }
}

/// Aligns lines whose cells end with tabs.
pub fn align(text: &str, padding: usize) -> String {
    let mut writer = tabwriter::TabWriter::new(Vec::new()).minwidth(0).padding(padding);
    // Writing to memory does not fail; were it to, the text is still readable as it is.
    let aligned = writer.write_all(text.as_bytes()).and_then(|()| writer.flush());
    match (aligned, writer.into_inner()) {
        (Ok(()), Ok(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => text.to_owned(),
    }
}
