internal import Bytes
package import ExtentJournal

/// What `spillway map` prints.
package enum MapText {
  /// A run as an object on a line of its own.
  package static func json(_ extent: MappedExtent) -> String {
    "{\"offset\":\(extent.offset),\"length\":\(extent.length),\"state\":\"\(extent.state.rawValue)\"}\n"
  }

  /// A run as a line for people.
  package static func line(_ extent: MappedExtent) -> String {
    "\(pad(extent.offset)) \(pad(extent.length)) \(extent.state.rawValue)\n"
  }

  private static func pad(_ number: UInt64) -> String {
    let text = String(number)
    return String(repeating: " ", count: max(0, 16 - text.count)) + text
  }

  /// A picture of a disk: a character for each of up to 1024 equal parts, 64 a line, and what it means.
  package struct Picture {
    private let byteCount: UInt64
    private let cellByteCount: UInt64
    /// For each cell how many bytes of it are in each state.
    private var cells: [[ExtentState: UInt64]]
    private var totals: [ExtentState: UInt64] = [:]

    private static let cellsMax: UInt64 = 1024
    private static let columns = 64

    /// Of a disk of `byteCount` bytes of which nothing is known yet.
    package init(byteCount: UInt64) {
      self.byteCount = byteCount
      let least = (byteCount + Self.cellsMax - 1) / Self.cellsMax
      cellByteCount = max(512, (least + 511) / 512 * 512)
      cells = Array(repeating: [:], count: Int((byteCount + cellByteCount - 1) / cellByteCount))
    }

    /// Takes in a run.
    package mutating func add(_ extent: MappedExtent) {
      totals[extent.state, default: 0] += extent.length
      var position = extent.offset
      let end = extent.offset + extent.length
      while position < end {
        let index = position / cellByteCount
        let next = min(end, (index + 1) * cellByteCount)
        cells[Int(index)][extent.state, default: 0] += next - position
        position = next
      }
    }

    /// The lines: each cell is drawn as what most of it is.
    package var text: String {
      var text = ""
      for start in stride(from: 0, to: cells.count, by: Self.columns) {
        for cell in cells[start..<min(start + Self.columns, cells.count)] {
          text.append(Self.mark(of: cell))
        }
        text += "\n"
      }
      text += "\neach mark is \(ByteCount.text(cellByteCount)) of \(ByteCount.text(byteCount))\n"
      for state in ExtentState.allCases {
        guard let bytes = totals[state] else { continue }
        text += "\(Self.marks[state] ?? " ") \(state.rawValue), \(ByteCount.text(bytes))\n"
      }
      return text
    }

    private static let marks: [ExtentState: Character] = [
      .data: "#", .zero: ".", .base: "=", .source: "~", .awaited: "?", .absent: "!", .released: "x",
    ]

    private static func mark(of cell: [ExtentState: UInt64]) -> Character {
      // In the order of the states where two are equal.
      var best: (state: ExtentState, bytes: UInt64)?
      for state in ExtentState.allCases {
        if let bytes = cell[state], bytes > best?.bytes ?? 0 { best = (state, bytes) }
      }
      return best.flatMap { marks[$0.state] } ?? " "
    }
  }
}
