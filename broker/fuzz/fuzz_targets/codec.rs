//! Bytes of a client or a server, whole and in pieces.
#![no_main]

use broker::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::codec(data));
