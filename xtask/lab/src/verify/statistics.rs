//! What the verifier prints of a program that it has accepted (kernel/bpf/verifier.c, `print_verification_stats`).

/// The verifier's statistics of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Instructions that it walked, an instruction as often as it came by.
    pub processed: u32,
    /// Bytes of stack of the program, and after it of each function, in the order of their code. Their sum is more
    /// than any chain of calls takes.
    pub stacks: Vec<u32>,
    /// How long it took, in microseconds.
    pub microseconds: u64,
}

impl Statistics {
    /// Reads the log. None where it is not what kernels 6.1 to 6.18 print.
    pub fn parse(log: &str) -> Option<Self> {
        let after = |key: &str| log.lines().find_map(|line| line.strip_prefix(key));
        let number = |text: &str| text.split(' ').next()?.parse().ok();
        Some(Self {
            processed: u32::try_from(number(after("processed ")?)?).ok()?,
            stacks: after("stack depth ")?
                .split('+')
                .map(|depth| depth.trim().parse().ok())
                .collect::<Option<_>>()?,
            microseconds: number(after("verification time ")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_understood() {
        let log = "verification time 5480 usec\nstack depth 88+0+16\nprocessed 31973 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 1226 peak_states 337 mark_read 0\n";
        let expected = Statistics { processed: 31_973, stacks: vec![88, 0, 16], microseconds: 5_480 };
        assert_eq!(Statistics::parse(log), Some(expected));
    }

    #[test]
    fn other_words_are_no_statistics() {
        for log in [
            "",
            "stack depth 8\nverification time 1 usec\n",
            "processed many insns\nstack depth 8\nverification time 1 usec\n",
            "processed 5 insns\nstack depth 8+\nverification time 1 usec\n",
        ] {
            assert_eq!(Statistics::parse(log), None, "{log}");
        }
    }
}
