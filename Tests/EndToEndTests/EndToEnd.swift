import Testing

// Real programs against the real program, over real sockets and files. One at a time: each pushes whole disks,
// and on a small machine they would only starve one another.

@Suite("end to end", .serialized)
struct EndToEnd {}
