import Foundation

/// Measured values by table, row and column, each in the order in which it first came.
struct Figures {
  private var titles: [String] = []
  private var tables: [String: Table] = [:]

  private struct Table {
    var rows: [String] = []
    var columns: [String] = []
    var values: [String: [String: [Double]]] = [:]
  }

  /// Adds what one round measured.
  mutating func add(_ title: String, _ row: String, _ column: String, _ value: Double) {
    if tables[title] == nil { titles.append(title) }
    var table = tables[title, default: Table()]
    if !table.rows.contains(row) { table.rows.append(row) }
    if !table.columns.contains(column) { table.columns.append(column) }
    table.values[row, default: [:]][column, default: []].append(value)
    tables[title] = table
  }

  /// Adds the quantiles of `nanoseconds` in microseconds.
  mutating func add(_ title: String, _ row: String, latencies nanoseconds: [UInt64]) {
    let sorted = nanoseconds.sorted()
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1)]
    for (name, quantile) in quantiles {
      let index = min(sorted.count - 1, Int(Double(sorted.count) * quantile))
      add(title, row, "\(name) µs", Double(sorted[index]) / 1000)
    }
  }

  /// Prints each table as Markdown: the median of each value and, in brackets, the smallest and the largest.
  func print(rounds: Int) {
    for title in titles {
      guard let table = tables[title] else { continue }
      Swift.print("\n### \(title)\n\n| median of \(rounds) |", terminator: "")
      Swift.print(table.columns.map { " \($0) |" }.joined())
      Swift.print("|---" + String(repeating: "|---", count: table.columns.count) + "|")
      for row in table.rows {
        let cells = table.columns.map { Self.cell(table.values[row]?[$0] ?? []) }
        Swift.print("| \(row) | " + cells.joined(separator: " | ") + " |")
      }
    }
  }

  private static func cell(_ values: [Double]) -> String {
    let sorted = values.sorted()
    guard let first = sorted.first, let last = sorted.last else { return "" }
    let median = text(sorted[sorted.count / 2])
    return sorted.count == 1 ? median : "\(median) (\(text(first))–\(text(last)))"
  }

  /// Three digits that count.
  private static func text(_ value: Double) -> String {
    let size = abs(value)
    return String(format: size >= 100 ? "%.0f" : size >= 10 ? "%.1f" : "%.2f", value)
  }
}
