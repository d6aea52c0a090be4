/// How libvirt is asked about one of its domains: through its own program, so that its access rules and its remote
/// connections hold for us too.
struct Virsh: Sendable {
  var program: String
  /// As `qemu:///system`; nil is what virsh takes by itself.
  var connection: String?
  var domain: String

  /// Runs the subcommand `name` on the domain.
  func run(_ name: String, _ arguments: [String], within limit: Duration?, awaited: String) throws(QMPError)
    -> [[UInt8]]
  {
    try ChildProgram.run(program, words(name, arguments), within: limit, awaited: awaited)
  }

  /// Starts the subcommand `name` on the domain, which goes on.
  func start(_ name: String, _ arguments: [String]) throws(QMPError) -> ChildProgram {
    try ChildProgram(program, words(name, arguments))
  }

  private func words(_ name: String, _ arguments: [String]) -> [String] {
    (connection.map { ["-c", $0] } ?? []) + [name, "--domain", domain] + arguments
  }
}
