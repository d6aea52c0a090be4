import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

extension BackupGuest {
  /// Expects that generation `name` of each disk is the disk of the moment of that name, byte for byte.
  func expectContent(_ names: String..., location: SourceLocation = #_sourceLocation) throws {
    for name in names {
      for (index, disk) in self.names.enumerated() {
        let output = directory.file("replayed.raw")
        try Spillway.run(["replay", "-j", journal, "\(disk)@\(name)", output, "--force"]).succeeded()
        try EndToEnd.expectIdentical(moment(name, index), output, location)
      }
    }
  }

  /// Expects that `verify` finds nothing wrong.
  func expectClean(_ location: SourceLocation = #_sourceLocation) throws {
    let finished = try Spillway.run(["verify", "-j", journal])
    #expect(
      finished.status == .exited(0) && finished.outputText.contains("clean"), "\(finished.outputText)",
      sourceLocation: location)
  }

  /// The generations of disk `index`, as `NAME KIND STATE`.
  func states(_ index: Int = 0) throws -> [String] {
    struct Answer: Decodable {
      struct Disk: Decodable {
        struct Generation: Decodable {
          var name: String?
          var kind: String
          var state: String
          var tainted: Bool
        }
        var name: String
        var generations: [Generation]
      }
      var disks: [Disk]
    }
    let output = try Spillway.run(["status", "-j", journal, "--json"]).succeeded().output
    let disks = try JSONDecoder().decode(Answer.self, from: Data(output)).disks
    let disk = try #require(disks.first { $0.name == names[index] })
    return disk.generations.map { "\($0.name ?? "-") \($0.kind) \($0.state)\($0.tainted ? " tainted" : "")" }
  }

  /// Expects that nothing of the program's is in qemu but the bitmaps of generations `kept`, that its runtime directory is
  /// empty but for the lock, and that none of its processes is left.
  func expectNothingLeft(
    bitmapsOf kept: [String], _ location: SourceLocation = #_sourceLocation
  ) throws {
    try waitForEnd()
    let monitor = machine.monitor
    #expect(try monitor.jobs() == [], sourceLocation: location)
    #expect(try monitor.exportIDs() == [], sourceLocation: location)
    #expect(try !monitor.stopNBDServer(), "its NBD server runs still", sourceLocation: location)
    let nodes = try monitor.blockNodes(monitor.schema())
    #expect(nodes.keys.filter { $0.hasPrefix("spillway") } == [], sourceLocation: location)
    for index in names.indices {
      let bitmaps = nodes[machine.node(index)]?.bitmaps ?? []
      #expect(
        bitmaps.map(\.name).sorted() == kept.map { "spillway-\($0)" }.sorted(), "disk \(index)",
        sourceLocation: location)
      #expect(bitmaps.allSatisfy { $0.recording && $0.busy != true }, sourceLocation: location)
    }
    let files = try FileManager.default.contentsOfDirectory(atPath: runtime())
    #expect(files == ["lock"], sourceLocation: location)
  }

  /// The job of disk `index`, which runs.
  func job(_ index: Int = 0) throws -> QEMUJob {
    try #require(
      try machine.monitor.jobs().first {
        $0.id.hasPrefix("spillway-") && $0.id.hasSuffix("-\(names[index])")
      })
  }

  /// Lets the jobs copy as fast as they can.
  func hurry() throws {
    for job in try machine.monitor.jobs() where job.id.hasPrefix("spillway-") {
      try machine.monitor.execute(
        "block-job-set-speed", arguments: ["device": .string(job.id), "speed": 0])
    }
  }
}

extension FinishedProcess {
  /// Expects the exit status `code` and one line, which contains each of `words`.
  func expectFailure(
    _ code: Int32 = 1, _ words: String..., location: SourceLocation = #_sourceLocation
  ) {
    #expect(status == .exited(code), "\(errorLines)", sourceLocation: location)
    #expect(errorLines.count == 1, "\(errorLines)", sourceLocation: location)
    for word in words {
      #expect(errorLines.last?.contains(word) == true, "\(errorLines)", sourceLocation: location)
    }
  }
}
