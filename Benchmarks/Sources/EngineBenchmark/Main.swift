import Foundation

// The engine measured by itself, in one process, without the wire. Every round runs each benchmark once, in turn, so that
// drift of the machine hits all; printed are medians of the rounds, as Markdown, with the smallest and the largest.
//
//   swift run -c release --package-path Benchmarks EngineBenchmark [--rounds N] [--only NAME,…] [--directory DIR]

/// A benchmark: its name, and what it does in one round.
struct Benchmark: Sendable {
  let name: String
  let run: @Sendable (inout Figures, Workplace) throws -> Void
}

@main
struct EngineBenchmark {
  static let all = [
    Benchmark(name: "limits", run: measureLimits),
    Benchmark(name: "compress", run: measureCompression),
    Benchmark(name: "index", run: measureIndex),
    Benchmark(name: "acks", run: measureAcks),
    Benchmark(name: "spill", run: measureSpill),
    Benchmark(name: "reads", run: measureReads),
    Benchmark(name: "open", run: measureOpen),
    Benchmark(name: "space", run: measureSteadySpace),
    Benchmark(name: "parked", run: measureParked),
  ]

  static func main() throws {
    var rounds = 5
    var only: Set<String> = []
    var directory = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
    var words = CommandLine.arguments.dropFirst()
    while let word = words.popFirst() {
      guard let value = words.popFirst() else { throw Failure("\(word) wants a value") }
      switch word {
      case "--rounds": rounds = Int(value) ?? rounds
      case "--only": only = Set(value.split(separator: ",").map(String.init))
      case "--directory": directory = value
      default: throw Failure("unknown word \(word)")
      }
    }
    if let unknown = only.subtracting(all.map(\.name)).first {
      throw Failure("no benchmark \(unknown); there are \(all.map(\.name).joined(separator: ", "))")
    }
    var figures = Figures()
    // Read before anything is timed.
    guard !VirtualMachineData.bytes.isEmpty else { throw Failure("no data") }
    for round in 1...max(rounds, 1) {
      for benchmark in all where only.isEmpty || only.contains(benchmark.name) {
        let place = try Workplace(in: directory)
        defer { place.remove() }
        FileHandle.standardError.write(Data("round \(round) of \(rounds): \(benchmark.name)\n".utf8))
        try benchmark.run(&figures, place)
      }
    }
    figures.print(rounds: rounds)
  }
}

/// Why a benchmark could not be run.
struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}
