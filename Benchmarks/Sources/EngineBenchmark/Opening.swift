import Bytes
import ExtentJournal
import Foundation
import Threads

/// What an open takes after a process that died, and without an index; and what a large disk takes in memory.
func measureOpen(_ figures: inout Figures, _ place: Workplace) throws {
  let title = "Opening"
  do {
    let journal = try place.journal("killed")
    let disk = try journal.disk("d", byteCount: 1 << 30, mode: .device)
    try VirtualMachineData.forEach(256 << 10, total: 1 << 30) { bytes, offset in
      try disk.write(bytes, at: offset)
    }
    try journal.spill()
    journal.abandon()
  }
  var journal: Journal?
  figures.add(
    title, "after a kill, 1 GiB of guests' data not in the index", "seconds",
    try seconds {
      journal = try place.journal("killed")
    })
  try journal?.close()
  journal = nil
  try place.delete("killed")
  try measureMapped(&figures, place)
}

/// 128 GiB in extents of 64 KiB.
private func measureMapped(_ figures: inout Figures, _ place: Workplace) throws {
  let count: UInt64 = 2 << 20
  let before = try anonymousMebibytes()
  do {
    let journal = try place.journal("mapped", spoolByteCount: 64 << 20)
    let disk = try journal.disk("d", byteCount: count * 128 << 10, mode: .device)
    for number in 0..<count {
      let range = ByteRange(offset: number * 128 << 10, count: 64 << 10)
      try disk.writeZeroes(range, mayTrim: false, durable: false).wake()
    }
    try journal.checkpoint()
    try journal.close()
  }
  try FileManager.default.removeItem(atPath: place.path + "/mapped/index/data.mdb")
  var journal: Journal?
  let rebuild = try seconds { journal = try place.journal("mapped", spoolByteCount: 64 << 20) }
  try journal?.checkpoint()
  figures.add("Opening", "without its index, 2 Mi extents", "seconds", rebuild)
  figures.add(
    "A large disk", "2 Mi extents of 64 KiB", "rebuild, extents/s ×1000", Double(count) / 1000 / rebuild)
  let disk = try journal?.disk("d", byteCount: nil, mode: nil)
  let buffer = AlignedBuffer(byteCount: 4096)
  var random = SeededGenerator(seed: 1)
  for _ in 0..<20_000 {
    let offset = UInt64.random(in: 0..<count * 32, using: &random) * 4096
    try disk?.read(ByteRange(offset: offset, count: 4096), buffer)
  }
  let grown = try anonymousMebibytes() - before
  let mapped = Double(count) * 65536 / Double(1 << 40)
  figures.add("A large disk", "2 Mi extents of 64 KiB", "RssAnon grown by MiB, rebuilt and read", grown)
  let indexBytes = Double(try journal?.status().indexBytes ?? 0)
  figures.add(
    "A large disk", "2 Mi extents of 64 KiB", "index, MiB per TiB mapped",
    indexBytes / Double(1 << 20) / mapped)
  try journal?.close()
}
