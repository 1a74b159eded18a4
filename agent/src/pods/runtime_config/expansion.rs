//! `$(NAME)` in commands, arguments, environment values and subPathExpr. Contract §13.
//!
//! Known names are replaced once, what comes out is not looked at again. An unknown `$(NAME)` stays as it is, `$$`
//! is one `$`, a reference that is not closed stays.

/// Replaces references to what `value_of` knows.
pub(crate) fn expand<'v>(text: &str, value_of: impl Fn(&str) -> Option<&'v str>) -> String {
    expand_with(text, |name| {
        value_of(name).map_or_else(|| format!("$({name})"), str::to_owned)
    })
}

/// As [`expand`], but an unknown name is an error: the first such.
///
/// # Errors
/// The unknown name.
pub(crate) fn expand_strictly<'v>(
    text: &str,
    value_of: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, String> {
    let unknown = std::cell::RefCell::new(None);
    let expanded = expand_with(text, |name| {
        value_of(name).map(str::to_owned).unwrap_or_else(|| {
            unknown.borrow_mut().get_or_insert_with(|| name.to_owned());
            String::new()
        })
    });
    unknown.into_inner().map_or(Ok(expanded), Err)
}

fn expand_with(text: &str, replacement: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let mut next = tail.chars();
        rest = match next.next() {
            None => {
                out.push('$');
                tail
            }
            Some('$') => {
                out.push('$');
                next.as_str()
            }
            Some('(') => match next.as_str().split_once(')') {
                Some((name, after)) => {
                    out.push_str(&replacement(name));
                    after
                }
                None => {
                    out.push_str("$(");
                    next.as_str()
                }
            },
            Some(other) => {
                out.push('$');
                out.push(other);
                next.as_str()
            }
        };
    }
    out.push_str(rest);
    out
}
