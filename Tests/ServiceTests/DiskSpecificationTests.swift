import ExtentJournal
import SpillwayService
import Testing

/// Goal: `--disk` takes what the manual says and nothing else.
/// Method: tables of texts, good and bad.
@Suite struct DiskSpecificationTests {
  @Test(
    "a disk has a name, a size and perhaps a mode",
    arguments: [
      ("sda=512", "sda", 512, nil),
      ("sda=64K", "sda", 65536, nil),
      ("a.b_c-9=10G,mode=snapshot", "a.b_c-9", 10 << 30, .snapshot),
      ("X=2t,mode=device", "X", 2 << 40, .device),
    ] as [(String, String, UInt64, DiskMode?)])
  func good(text: String, name: String, byteCount: UInt64, mode: DiskMode?) throws {
    let disk = try DiskSpecification(parsing: text)
    #expect(disk.name == name)
    #expect(disk.byteCount == byteCount)
    #expect(disk.mode == mode)
  }

  @Test(
    "anything else is a usage error",
    arguments: [
      "", "sda", "sda=", "=1G", "sda=0", "sda=511", "sda=513", "sda=1.5G", "sda=-512", "sda=+512", "sda=1Q",
      "sda=9999999999999999999", "sda=16384P", "s da=1G", "sdä=1G", "sda@live=1G", "a/b=1G", "sda=1G,",
      "sda=1G,mode", "sda=1G,mode=", "sda=1G,mode=mirror", "sda=1G,mode=device,mode=device", "sda=1G,level=3",
      "sda,mode=device=1G",
    ])
  func bad(text: String) {
    let error = #expect(throws: ServiceError.self) { try DiskSpecification(parsing: text) }
    #expect(error?.status == .usage)
    #expect(error?.message.contains("--disk \(text)") == true)
  }

  @Test("a name may have 255 bytes and not one more")
  func longNames() throws {
    let longest = String(repeating: "n", count: 255)
    #expect(try DiskSpecification(parsing: "\(longest)=1G").name == longest)
    #expect(throws: ServiceError.self) { try DiskSpecification(parsing: "\(longest)n=1G") }
  }
}
