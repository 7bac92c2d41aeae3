//! Tables on a terminal.

use kv::plain::shown;
use serde_json::Value;

/// Formats a JSON value as a text. Strings have no quotes, and null is empty.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Aligns the rows in columns. Cells may hold anything that a server has sent: each is cut to
/// [`kv::plain::SHOWN_CHARS_MAX`] and has no characters that a terminal acts on.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| shown(&row[column]))).collect();
    let chars = |cell: &String| cell.chars().count();
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| chars(&row[column])).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = (row.iter().zip(widths))
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - chars(cell))))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn any_cell_is_a_cell_and_nothing_else() {
        let long = "x".repeat(70_000);
        let text = table(&[["a".to_owned(), "ü".to_owned()], [long, "1\n\x1b[31m2".to_owned()]]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\x1b') && text.chars().count() < 1_000, "{text}");
        let ends = |line: &str| line.chars().count();
        assert_eq!(text.lines().map(ends).min(), Some(301 + 2 + 1), "they are aligned: {text}");
    }
}
