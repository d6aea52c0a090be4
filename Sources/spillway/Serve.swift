internal import ArgumentParser
internal import SpillwayService

/// `spillway serve`.
struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve a journal over NBD.",
    discussion: """
      ADDR is unix:PATH, tcp:HOST:PORT (an IPv6 address in brackets) or vsock:CID:PORT. SIZE and BYTES take 512, 64K, 10G, 2T.
      Runs in the foreground until SIGTERM, SIGINT, SIGHUP, spillway ctl shutdown or the end of COMMAND.
      """)

  @OptionGroup var journal: JournalOption

  @Option(
    help: ArgumentHelp(
      "A disk. One that the journal already holds needs none.", valueName: "NAME=SIZE[,mode=device|snapshot]")
  )
  var disk: [String] = []

  @Option(
    help: ArgumentHelp(
      "The live disk that a backup job protects: what has not arrived is read from it.",
      valueName: "NAME=NBD-URI,job=ID|,static"))
  var source: [String] = []

  @Option(help: ArgumentHelp("The monitor to ask about the jobs of sources.", valueName: "PATH"))
  var qmp: String?

  @Option(
    help: ArgumentHelp(
      "Serve every export here. Default: unix:DIR/ingest.sock", valueName: "ADDR"))
  var listen: [String] = []

  @Option(help: ArgumentHelp("Serve only views here. Default: unix:DIR/view.sock", valueName: "ADDR"))
  var view: [String] = []

  @Option(
    name: .customLong("run"),
    help: ArgumentHelp(
      "Run this by /bin/sh, with $uri, $view_uri, $unixsocket and $view_unixsocket, and end with its status.",
      valueName: "COMMAND"))
  var command: String?

  @Option(
    help: ArgumentHelp(
      "What a read of a block that has not arrived does. Default: wait", valueName: "wait|zeroes|error"))
  var unarrived: String?

  @Option(
    help: ArgumentHelp(
      "What never arrived reads as after completion. Default: device zeroes, snapshot error",
      valueName: "zeroes|error"))
  var afterComplete: String?

  @Option(help: ArgumentHelp("How long a read may wait. Default: 0, no limit", valueName: "SECONDS"))
  var readTimeout: String?

  @Option(help: ArgumentHelp("Where the spool lies. Default: /dev/shm", valueName: "DIR"))
  var spoolDir: String?

  @Option(help: ArgumentHelp("Size of the spool. Default: 256M", valueName: "BYTES"))
  var spoolSize: String?

  @Flag(help: "Go on though the spool of an unclean journal is gone, and acknowledged data with it.")
  var acceptLoss = false

  @Option(
    help: ArgumentHelp(
      "What happens to writes when the disk of the journal is full. Default: stall",
      valueName: "stall|enospc|taint"))
  var whenFull: String?

  @Option(
    help: ArgumentHelp(
      "With --when-full taint: how long a write may wait for room. Default: 1000", valueName: "MS"))
  var stallBudget: String?

  @Option(
    help: ArgumentHelp(
      "Keep the past, for so many bytes of segments or so long, to be read as NAME@=SEQUENCE. Default: 0",
      valueName: "BYTES|SECONDSs"))
  var history: String?

  @Flag(help: "Let readers of views release what they need no more, by TRIM.")
  var allowRelease = false

  @Flag(help: "Release what a view has shown once.")
  var readOnce = false

  @Option(help: ArgumentHelp("What the journal may take on disk.", valueName: "BYTES"))
  var quota: String?

  @Option(
    help: ArgumentHelp(
      "Keep the newest N sealed generations of each disk and drop older ones.", valueName: "N"))
  var keep: String?

  @Option(
    help: ArgumentHelp(
      "What is wanted of a disk, such as 0-1G,5G-6G or part:1,2; the rest is released.",
      valueName: "NAME=RANGES"))
  var keepOnly: [String] = []

  @Option(help: ArgumentHelp("The admin socket. Default: unix:DIR/admin.sock", valueName: "unix:PATH"))
  var admin: String?

  @Option(help: ArgumentHelp("Write the process id here once ready.", valueName: "F"))
  var pidFile: String?

  @Option(help: ArgumentHelp("What to log. Default: info", valueName: "debug|info|warning|error"))
  var logLevel: String?

  @Option(
    help: ArgumentHelp("Whether clients may or must use TLS. Default: off", valueName: "off|on|require"))
  var tls: String?

  @Option(
    help: ArgumentHelp("server-cert.pem, server-key.pem, ca-cert.pem and ca-crl.pem.", valueName: "DIR"))
  var tlsCertificates: String?

  @Option(
    help: ArgumentHelp("Instead of certificates, keys: lines of USER:HEXADECIMAL-KEY.", valueName: "FILE"))
  var tlsPsk: String?

  @Flag(help: "Serve only clients whose certificate ca-cert.pem has signed.")
  var tlsVerifyPeer = false

  @Option(
    help: ArgumentHelp(
      "With --tls on: hide a disk and its views from clients without TLS.", valueName: "NAME"))
  var tlsOnly: [String] = []

  @Option(help: ArgumentHelp("NBD connections served at once. Default: 4096", valueName: "N"))
  var maxConnections: String?

  /// The options as they were typed.
  private var arguments: ServeArguments {
    var arguments = ServeArguments(journal: journal.journal)
    arguments.disks = disk
    arguments.sources = source
    arguments.monitor = qmp
    arguments.listen = listen
    arguments.view = view
    arguments.admin = admin
    arguments.run = command
    arguments.unarrived = unarrived
    arguments.afterComplete = afterComplete
    arguments.readTimeout = readTimeout
    arguments.spoolDirectory = spoolDir
    arguments.spoolSize = spoolSize
    arguments.acceptLoss = acceptLoss
    arguments.whenFull = whenFull
    arguments.stallBudget = stallBudget
    arguments.allowRelease = allowRelease
    arguments.readOnce = readOnce
    arguments.quota = quota
    arguments.history = history
    arguments.keep = keep
    arguments.keepOnly = keepOnly
    arguments.pidFile = pidFile
    arguments.logLevel = logLevel
    arguments.tls = tls
    arguments.tlsCertificates = tlsCertificates
    arguments.tlsKeys = tlsPsk
    arguments.tlsVerifyPeer = tlsVerifyPeer
    arguments.tlsOnly = tlsOnly
    arguments.maximumConnections = maxConnections
    return arguments
  }

  func run() throws {
    let configuration = try ServeConfiguration(
      arguments, currentDirectory: AbsolutePath.currentDirectory())
    throw ExitCode(try Daemon(configuration).run())
  }
}
