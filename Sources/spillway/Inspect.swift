internal import ArgumentParser
internal import SpillwayService

/// What `inspect` and `backup` have in common.
struct SessionOptions: ParsableArguments {
  @Option(help: ArgumentHelp("The QMP socket of the virtual machine.", valueName: "PATH"))
  var qmp: String?

  @Option(
    help: ArgumentHelp("The virtual machine as libvirt knows it; virsh speaks to it.", valueName: "DOMAIN"))
  var libvirt: String?

  @Option(
    help: ArgumentHelp(
      "A disk: the block node (or device) in qemu, and its name in the journal if that is another.",
      valueName: "[NAME=]NODE"))
  var disk: [String] = []

  @Flag(help: "Have the guest agent freeze the guest's filesystems for the moment.")
  var freeze = false

  @Option(
    help: ArgumentHelp("With --freeze: the guest agent's socket, if it cannot be found.", valueName: "PATH"))
  var agent: String?

  @Option(
    help: ArgumentHelp(
      "The NBD server of qemu's that runs already; without it one is started.", valueName: "URI"))
  var nbdServer: String?

  @Option(
    help: ArgumentHelp(
      "What happens to the guest's writes when the disk of the journal is full.",
      valueName: "stall|enospc|taint"))
  var whenFull: String?

  @Option(
    help: ArgumentHelp(
      "How long a write of the guest may wait for room (with --when-full taint), or for an engine that died. Default: 1000; of a backup: 10000",
      valueName: "MS"))
  var stallBudget: String?

  @Option(
    help: ArgumentHelp(
      "How long to wait for the monitor, which another client may hold. Default: 30", valueName: "SECONDS"))
  var monitorTimeout: String?

  @Option(help: ArgumentHelp("What the journal may take on disk.", valueName: "BYTES"))
  var quota: String?

  @Option(help: ArgumentHelp("What to log. Default: warning", valueName: "debug|info|warning|error"))
  var logLevel: String?

  /// The options as they were typed.
  var arguments: SessionArguments {
    var arguments = SessionArguments()
    arguments.qmp = qmp
    arguments.libvirt = libvirt
    arguments.disks = disk
    arguments.freeze = freeze
    arguments.agent = agent
    arguments.nbdServer = nbdServer
    arguments.whenFull = whenFull
    arguments.stallBudget = stallBudget
    arguments.monitorTimeout = monitorTimeout
    arguments.quota = quota
    arguments.logLevel = logLevel
    return arguments
  }
}

/// `spillway inspect`.
struct Inspect: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Look at a moment of a running guest's disks.",
    usage:
      "spillway inspect (--qmp PATH | --libvirt DOMAIN) --disk [NAME=]NODE ... [OPTIONS] [-- COMMAND...]",
    discussion: """
      COMMAND sees the disks as they were at one instant, while the guest goes on: in its arguments {} stands for the disks \
      as libguestfs takes them, $view_uri is the first one's NBD URI and $view_uris are all. Without COMMAND the URIs are \
      printed and served until SIGINT or SIGTERM. The exit status is COMMAND's.

        spillway inspect --qmp qmp.sock --disk root=src -- virt-df {}
      """)

  @OptionGroup var session: SessionOptions

  @Option(
    name: .customShort("j"),
    help: ArgumentHelp("The journal directory. Default: a temporary one", valueName: "DIR"))
  var journal: String?

  @Flag(help: "Release what a view has shown once.")
  var readOnce = false

  @Argument(parsing: .postTerminator, help: "What to run while the moment lasts.")
  var command: [String] = []

  func run() throws {
    var arguments = session.arguments
    arguments.journal = journal
    arguments.readOnce = readOnce
    arguments.command = command
    let configuration = try SessionConfiguration(
      .inspect, arguments, currentDirectory: AbsolutePath.currentDirectory())
    throw ExitCode(try Inspection(configuration).run())
  }
}

/// `spillway backup`.
struct BackUp: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "backup",
    abstract: "Keep a moment of a running guest's disks as a sealed generation.",
    usage:
      "spillway backup (--qmp PATH | --libvirt DOMAIN) --disk [NAME=]NODE ... -j DIR [--incremental BASE] [--name GENERATION]",
    discussion: """
      From each backup on qemu records in the bitmap spillway-GENERATION what the guest changes, and the next one with \
      --incremental GENERATION copies only that. While the backup runs its disks can be read at NAME@GENERATION.
      """)

  @OptionGroup var session: SessionOptions

  @Option(name: .customShort("j"), help: ArgumentHelp("The journal directory.", valueName: "DIR"))
  var journal: String

  @Option(
    help: ArgumentHelp("Copy only what has changed since this generation.", valueName: "BASE"))
  var incremental: String?

  @Option(
    help: ArgumentHelp("How much a job may copy in a second, to spare the guest's disk.", valueName: "BYTES"))
  var speed: String?

  @Option(
    help: ArgumentHelp(
      "Keep the newest N sealed generations of each disk of the journal and drop older ones.", valueName: "N")
  )
  var keep: String?

  @Option(
    help: ArgumentHelp(
      "What the generation is called. Default: the time, as 20261125T231800Z", valueName: "GENERATION"))
  var name: String?

  func run() throws {
    var arguments = session.arguments
    arguments.journal = journal
    arguments.base = incremental
    arguments.name = name
    arguments.keep = keep
    arguments.speed = speed
    let configuration = try SessionConfiguration(
      .backup, arguments, currentDirectory: AbsolutePath.currentDirectory())
    try Backup(configuration).run()
  }
}

/// `spillway engine`: started by `inspect` and `backup`, never by people.
struct Engine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "engine", abstract: "Serve a session of inspect or backup.", shouldDisplay: false)

  @Argument(help: "The session's runtime directory.")
  var runtimeDirectory: String

  func run() throws {
    throw ExitCode(try SessionEngine(runtimeDirectory: runtimeDirectory).run())
  }
}
