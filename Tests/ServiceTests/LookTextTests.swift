import ExtentJournal
import SpillwayService
import Testing

@Suite struct LookTextTests {
  @Test("moments are said as dates, leap years and all")
  func moments() {
    #expect(LogText.moment(0) == "1970-01-01T00:00:00Z")
    #expect(LogText.moment(951_782_399_000_000_000) == "2000-02-28T23:59:59Z")
    #expect(LogText.moment(951_868_799_999_999_999) == "2000-02-29T23:59:59Z")
    #expect(LogText.moment(1_795_655_000_000_000_000) == "2026-11-26T01:03:20Z")
    #expect(LogText.moment(4_107_542_400_000_000_000) == "2100-03-01T00:00:00Z")
  }

  @Test("the picture of a disk draws each part as what most of it is")
  func picture() {
    var picture = MapText.Picture(byteCount: 1 << 20)
    for (offset, length, state) in [
      (0, 3072, ExtentState.data), (3072, 1024, .zero), (4096, 400 * 1024, .released),
      (413_696, 634_880, .awaited),
    ] as [(UInt64, UInt64, ExtentState)] {
      picture.add(MappedExtent(offset: offset, length: length, state: state))
    }
    let lines = picture.text.split(separator: "\n")
    #expect(lines[0] == "###." + String(repeating: "x", count: 60))
    #expect(lines[15] == String(repeating: "?", count: 64))
    var live = MapText.Picture(byteCount: 1 << 20)
    live.add(MappedExtent(offset: 0, length: 1 << 20, state: .source))
    #expect(live.text.hasPrefix("~~~~") && live.text.contains("~ source, 1 MiB"))
    #expect(lines.contains("each mark is 1 KiB of 1 MiB") && lines.contains("x released, 400 KiB"))
  }
}
