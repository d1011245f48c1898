//! Characters with colours, and curves drawn into them with Braille's dots.
//!
//! Owns where a dot lies and how cells become text. Must not know what is drawn, nor write to a terminal.

/// Dots of a character, across and down.
const DOTS: [usize; 2] = [2, 4];
/// The bit of each dot in a Braille pattern: by row, then by column.
const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
/// The pattern without dots.
const BRAILLE: u32 = 0x2800;

/// The looks of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Bold,
    Dim,
    First,
    Second,
}

impl Colour {
    /// The terminal's code.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Dim => "90",
            Self::First => "36",
            Self::Second => "33",
        }
    }
}

/// Rows of characters; what lies outside is not drawn.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    width: usize,
    cells: Vec<(char, Colour)>,
}

impl Grid {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, cells: vec![(' ', Colour::Plain); width * height] }
    }

    fn cell(&mut self, [x, y]: [usize; 2]) -> Option<&mut (char, Colour)> {
        if x < self.width { self.cells.get_mut(y * self.width + x) } else { None }
    }

    /// Writes `text` from a column and row on; returns the column after it. One character a column: what is written here
    /// has no wide ones.
    pub(super) fn put(&mut self, [x, y]: [usize; 2], text: &str, colour: Colour) -> usize {
        let mut end = x;
        for c in text.chars() {
            if let Some(cell) = self.cell([end, y]) {
                *cell = (c, colour);
            }
            end += 1;
        }
        end
    }

    /// Draws points, joined, into the area that begins at a column and row and has so many of both; `bounds` are what its
    /// edges stand for. Where two curves share a character the later one gives the colour.
    pub(super) fn curve(
        &mut self,
        (at, size): ([usize; 2], [usize; 2]),
        points: &[(f64, f64)],
        bounds: [[f64; 2]; 2],
        colour: Colour,
    ) {
        let last = [size[0] * DOTS[0] - 1, size[1] * DOTS[1] - 1];
        let place = |value: f64, [low, high]: [f64; 2], last: usize| {
            ((value - low) / (high - low) * last as f64).round().clamp(0.0, last as f64)
        };
        // Rows count from above.
        let dot = |(x, y): (f64, f64)| [place(x, bounds[0], last[0]), last[1] as f64 - place(y, bounds[1], last[1])];
        let mut before: Option<[f64; 2]> = None;
        for to in points.iter().copied().map(dot) {
            let from = before.unwrap_or(to);
            let n = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).max(1.0);
            for i in 0..=n as usize {
                let along = |axis: usize| (from[axis] + (to[axis] - from[axis]) * i as f64 / n).round() as usize;
                self.dot(at, [along(0), along(1)], colour);
            }
            before = Some(to);
        }
    }

    /// Sets a dot of the area that begins at `at`.
    fn dot(&mut self, at: [usize; 2], [x, y]: [usize; 2], colour: Colour) {
        let Some(cell) = self.cell([at[0] + x / DOTS[0], at[1] + y / DOTS[1]]) else { return };
        let set = Some(u32::from(cell.0)).filter(|c| (BRAILLE..BRAILLE + 0x100).contains(c)).unwrap_or(BRAILLE);
        let with = set | BITS[y % DOTS[1]][x % DOTS[0]];
        *cell = (char::from_u32(with).unwrap_or(' '), colour);
    }

    /// The rows as lines, without blanks at their ends; with the colours of a terminal if `has_colours`.
    pub(super) fn text(&self, has_colours: bool) -> String {
        let mut text = String::new();
        for row in self.cells.chunks(self.width.max(1)) {
            let n = row.iter().rposition(|(c, _)| *c != ' ').map_or(0, |at| at + 1);
            let mut now = Colour::Plain;
            for (c, colour) in &row[..n] {
                if has_colours && *colour != now {
                    text.push_str("\x1b[0;");
                    text.push_str(colour.code());
                    text.push('m');
                    now = *colour;
                }
                text.push(*c);
            }
            if now != Colour::Plain {
                text.push_str("\x1b[0m");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_where_they_belong() {
        // Two characters by one, four dots by four: a line from the lower left to the upper right corner.
        let mut grid = Grid::new(2, 1);
        grid.curve(([0, 0], [2, 1]), &[(0.0, 0.0), (3.0, 3.0)], [[0.0, 3.0]; 2], Colour::First);
        assert_eq!(grid.text(false), "⡠⠊\n");
        // Points outside lie on the edge.
        let mut grid = Grid::new(1, 2);
        grid.curve(([0, 0], [1, 2]), &[(0.0, 9.0), (1.0, -9.0)], [[0.0, 1.0]; 2], Colour::First);
        assert_eq!(grid.text(false), "⡇\n⢸\n");
    }

    #[test]
    fn what_lies_outside_is_not_drawn() {
        let mut grid = Grid::new(4, 2);
        assert_eq!(grid.put([2, 0], "abcd", Colour::Plain), 6);
        grid.put([0, 5], "below", Colour::Plain);
        grid.curve(([3, 1], [3, 3]), &[(0.0, 0.0), (1.0, 1.0)], [[0.0, 1.0]; 2], Colour::Second);
        assert_eq!(grid.text(false).lines().next(), Some("  ab"));
        assert_eq!(Grid::new(0, 0).text(true), "");
    }

    #[test]
    fn colours_begin_and_end() {
        let mut grid = Grid::new(8, 2);
        grid.put([0, 0], "ab", Colour::Bold);
        grid.put([3, 0], "c", Colour::First);
        assert_eq!(grid.text(true), "\x1b[0;1mab\x1b[0;0m \x1b[0;36mc\x1b[0m\n\n");
        assert_eq!(grid.text(false), "ab c\n\n");
    }
}
