//! Tables and figures for people.

/// A plain table: columns of figures to the right, columns of words to the left, no lines.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_figures =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).all(|cell| is_figure(cell));
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    for row in &rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if !rows.is_empty() && is_figures(at) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Whether a cell is a number, with a unit or grouped digits, or stands for a missing one.
fn is_figure(cell: &str) -> bool {
    let number: String =
        cell.chars().filter(|c| !c.is_whitespace() && !c.is_alphabetic() && *c != '%').collect();
    cell.is_empty()
        || cell == "-"
        || (cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && number.parse::<f64>().is_ok())
}

/// A number with four significant digits or so; `-` where there is none.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if !value.is_finite() => value.to_string(),
        Some(0.0) => "0".into(),
        Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}

/// Bytes with a unit.
pub fn bytes(value: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = value as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A number of things: `1 row`, `2 rows`; `one` is the word for one of them.
pub fn plural(n: u64, one: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{} {one}{ending}", count(n))
}

/// A whole number with thin groups of three.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!((plural(1, "row"), plural(1200, "row")), ("1 row".into(), "1 200 rows".into()));
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(count(12), "12");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(number(Some(0.12345)), "0.1235");
        assert_eq!(number(None), "-");
    }
}
