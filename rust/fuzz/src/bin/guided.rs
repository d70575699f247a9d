#![no_main]

/// No door: shows that the fuzzer is guided by coverage. Behind four nested comparisons it finds a panic within seconds;
/// a blind one would need some 2^64 tries.
fn enter(bytes: &[u8]) {
    if bytes.first() == Some(&b'L')
        && bytes.get(1) == Some(&0xc7)
        && bytes.get(2) == Some(&b'd')
        && bytes.get(3) == Some(&0x00)
        && bytes.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) == Some(0x5eed_f00d)
    {
        panic!("found");
    }
}

lucid_fuzz::door!(enter, 1 << 20);
