import ExtentJournal
import Glibc

extension Replay {
  /// Writes `name` to the raw file `output`, in the place of what is there.
  static func toRawFile(
    from reader: JournalReader, disk name: String, output: String, tainted: Bool = false
  ) throws(JournalError) -> Report {
    let replay = try Replay(of: name, from: reader, tainted: tainted)
    unlink(output)
    return try replay.write(to: RawImage(creating: output, byteCount: replay.byteCount)) { _, _ in }
  }
}
