/// A block job, as `query-block-jobs` tells of it: what `query-jobs` leaves out.
package struct QEMUBlockJob: Decodable, Sendable, Equatable {
  /// Its id; qemu calls it so for the time when a device had one job.
  package var device: String
  /// The bytes a second that it may copy; 0 is as many as it can.
  package var speed: Int64
  /// `ok`, `failed` or `nospace`: what its last request met.
  package var ioStatus: String?

  private enum CodingKeys: String, CodingKey {
    case device, speed
    case ioStatus = "io-status"
  }
}

extension Monitor {
  /// The block jobs that live.
  package func blockJobs() throws(QMPError) -> [QEMUBlockJob] {
    try execute("query-block-jobs", as: [QEMUBlockJob].self)
  }

  /// The speed of the block job `id` in bytes a second, 0 for no limit; nil when no such job lives.
  package func jobSpeed(_ id: String) throws(QMPError) -> Int64? {
    try blockJobs().first { $0.device == id }?.speed
  }

  /// Lets the block job `id` copy at most this much a second; 0 is as much as it can.
  package func setJobSpeed(_ id: String, bytesPerSecond: Int64) throws(QMPError) {
    try execute(
      "block-job-set-speed", arguments: ["device": .string(id), "speed": .integer(bytesPerSecond)])
  }
}
