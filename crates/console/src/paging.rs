//! Lists in parts, the newest first. A part begins behind the last entry of the one before, wherever
//! that is by then: what comes or goes meanwhile moves nothing else in or out.

use jiff::Timestamp;

use crate::Problem;

/// Where an entry is in a list: by its time, and by its name among those of one time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    at: Timestamp,
    name: String,
}

impl Place {
    pub(crate) fn new(at: Timestamp, name: impl Into<String>) -> Self {
        Self { at, name: name.into() }
    }

    /// As a text that says nothing to others.
    fn cursor(&self) -> String {
        hex::encode(format!("{} {}", self.at.as_nanosecond(), self.name))
    }

    fn of_cursor(text: &str) -> Option<Self> {
        let text = String::from_utf8(hex::decode(text).ok()?).ok()?;
        let (at, name) = text.split_once(' ')?;
        let at = Timestamp::from_nanosecond(at.parse().ok()?).ok()?;
        Some(Self::new(at, name))
    }
}

/// A part of a list.
pub(crate) struct Part<T> {
    pub(crate) entries: Vec<T>,
    /// What to ask for as `cursor` for the next part; none if this is the last.
    pub(crate) next: Option<String>,
    /// How many entries come after this part.
    pub(crate) left_out: usize,
}

/// At most `limit` of the entries, behind `cursor`. `Refused` for a text that is no cursor.
pub(crate) fn part<T>(
    mut entries: Vec<T>,
    (cursor, limit): (Option<&str>, usize),
    place: impl Fn(&T) -> Place,
) -> Result<Part<T>, Problem> {
    entries.sort_by_cached_key(|entry| std::cmp::Reverse(place(entry)));
    if let Some(cursor) = cursor {
        let last = Place::of_cursor(cursor).ok_or_else(bad_cursor)?;
        entries.retain(|entry| place(entry) < last);
    }
    let left_out = entries.len().saturating_sub(limit);
    entries.truncate(limit);
    let last = entries.last().filter(|_| left_out > 0);
    let next = last.map(|entry| place(entry).cursor());
    Ok(Part { entries, next, left_out })
}

/// How many entries are wanted, of at most so many.
pub(crate) fn limit(wanted: Option<usize>, most: usize) -> Result<usize, Problem> {
    match wanted.unwrap_or(most) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit must be from 1 to {most}"))),
    }
}

pub(crate) fn bad_cursor() -> Problem {
    Problem::refused("this is no cursor: take what `next` was in the answer before")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(entry: &(i64, &'static str)) -> Place {
        Place::new(Timestamp::from_second(entry.0).unwrap(), entry.1)
    }

    #[test]
    fn parts_make_the_whole_while_entries_come_and_go() {
        let mut list = vec![(3, "c"), (1, "a"), (2, "b"), (2, "bb"), (5, "e"), (4, "d")];
        let first = part(list.clone(), (None, 2), place).unwrap();
        assert_eq!((first.entries, first.left_out), (vec![(5, "e"), (4, "d")], 4));
        // The newest one comes, the last one shown goes, and one that was not shown yet.
        list.push((9, "x"));
        list.retain(|(at, _)| *at != 4 && *at != 3);
        let second = part(list.clone(), (first.next.as_deref(), 2), place).unwrap();
        assert_eq!(second.entries, [(2, "bb"), (2, "b")]);
        let third = part(list, (second.next.as_deref(), 2), place).unwrap();
        assert_eq!((third.entries, third.next, third.left_out), (vec![(1, "a")], None, 0));
    }

    #[test]
    fn an_exact_fit_has_no_next_part() {
        let all = part(vec![(1, "a"), (2, "b")], (None, 2), place).unwrap();
        assert_eq!((all.entries.len(), all.next), (2, None));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for bad in
            ["", "zz", "00", &hex::encode("x y"), &hex::encode("99999999999999999999999999 y")]
        {
            assert!(part(vec![(1, "a")], (Some(bad), 2), place).is_err(), "{bad}");
        }
    }
}
