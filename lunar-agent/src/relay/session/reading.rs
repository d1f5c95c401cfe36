//! When it is worth the while to read a head again from its start.

/// Up to how many bytes it always is: what is no HTTP shows there, and each byte may be the one that somebody waits for the answer to.
const SHORT: usize = 1 << 10;

/// Whether a head should be tried that was incomplete when there were `tried` bytes. A head that comes byte by byte would cost
/// the square of its length otherwise; it can only be complete with a line's end, and only lines are many.
pub fn worth_a_try(tried: usize, bytes: &[u8]) -> bool {
    let Some(new) = bytes.get(tried..).filter(|new| !new.is_empty()) else { return false };
    bytes.len() <= SHORT || new.contains(&b'\n') || new.len() >= tried / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are read in all when they come one by one.
    fn cost(bytes: &[u8]) -> usize {
        let (mut tried, mut cost) = (0, 0);
        for end in 1..=bytes.len() {
            if worth_a_try(tried, &bytes[..end]) {
                (tried, cost) = (end, cost + end);
            }
        }
        cost
    }

    #[test]
    fn nothing_new_is_not_worth_a_try_and_a_line_end_always_is() {
        assert!(!worth_a_try(0, b"") && !worth_a_try(3, b"GET"));
        assert!(worth_a_try(0, b"G") && worth_a_try(1, b"GE"));
        let long = [b'a'; 5000];
        assert!(!worth_a_try(4999, &long));
        assert!(worth_a_try(4999, &[&long[..4999], b"\n"].concat()));
    }

    #[test]
    fn a_head_that_trickles_costs_no_square() {
        let line = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 64 << 10]].concat();
        assert!(cost(&line) < 20 * line.len(), "{}", cost(&line));
    }
}
