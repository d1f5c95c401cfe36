//! The PROXY protocol header in front of the first byte.

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    helpers::generated::{bpf_msg_apply_bytes, bpf_msg_pull_data, bpf_msg_push_data},
    programs::SkMsgContext,
};
use lunar_common::{
    abi::{mark, phase},
    proxy,
};

use crate::{context, count, maps};

/// Pushes the header once. A message that cannot carry it is dropped (the sender sees an error): without it the
/// gateway would take the application's first bytes for the header.
#[inline(always)]
pub fn push(ctx: &SkMsgContext) -> u32 {
    let sk = context::sender_sk(ctx);
    if sk.is_null() {
        return SK_PASS;
    }
    let Some(connection) = maps::connection(sk) else { return SK_PASS };
    if connection.marks & mark::HEADER_DUE == 0 || connection.phase != phase::ESTABLISHED {
        return SK_PASS;
    }
    let (source, original) = (context::sender(ctx), connection.original);
    let pushed = if original.address.is_v4() {
        write(ctx, proxy::header_v4(&source, &original))
    } else {
        write(ctx, proxy::header_v6(&source, &original))
    };
    if !pushed {
        count::of_all!(headers_failed);
        return SK_DROP;
    }
    connection.marks &= !mark::HEADER_DUE;
    count::of_all!(headers_pushed);
    // The verdict holds for the next 4 GiB: the program is not asked again for every send.
    // SAFETY: `msg` is the context this program was called with.
    unsafe { bpf_msg_apply_bytes(ctx.msg, u32::MAX) };
    SK_PASS
}

#[inline(always)]
fn write<const N: usize>(ctx: &SkMsgContext, header: [u32; N]) -> bool {
    let len = (N * size_of::<u32>()) as u32;
    // SAFETY: `msg` is the context; the words are written only where the verifier sees that they lie before `data_end`.
    unsafe {
        if bpf_msg_push_data(ctx.msg, 0, len, 0) != 0 || bpf_msg_pull_data(ctx.msg, 0, len, 0) != 0 {
            return false;
        }
        let (data, end) = context::message(ctx);
        if data.add(N) > end {
            return false;
        }
        for (i, word) in header.iter().enumerate() {
            data.add(i).write_unaligned(*word);
        }
    }
    true
}
