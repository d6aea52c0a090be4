import ExtentJournal
import Logging
import NBDServer
import SpillwayService
import Testing

/// Goal: what the options of `serve` mean, and that every wrong one is a usage error before anything is opened.
/// Method: arguments as typed, checked against the values they become.
@Suite struct ServeConfigurationTests {
  private func configuration(
    journal: String = "j", _ change: @Sendable (inout ServeArguments) -> Void = { _ in }
  ) throws(ServiceError) -> ServeConfiguration {
    var arguments = ServeArguments(journal: journal)
    change(&arguments)
    return try ServeConfiguration(arguments, currentDirectory: "/here")
  }

  @Test("without options the sockets lie in the journal directory")
  func defaults() throws {
    let made = try configuration()
    #expect(made.directory.path == "/here/j")
    #expect(made.listen == [.unix(path: "/here/j/ingest.sock")])
    #expect(made.view == [.unix(path: "/here/j/view.sock")])
    #expect(made.adminPath == "/here/j/admin.sock")
    #expect(made.journal.adminAddress == "unix:/here/j/admin.sock")
    #expect(made.journal.unarrived == .wait)
    #expect(made.journal.afterComplete == nil)
    #expect(made.journal.readTimeoutNanoseconds == 0)
    #expect(made.journal.whenFull == .stall && made.journal.stallBudgetNanoseconds == 1_000_000_000)
    #expect(made.journal.spoolByteCount == 256 << 20)
    #expect(made.maximumConnections == 4096)
    #expect(made.logLevel == .info)
    #expect(made.disks.isEmpty && made.command == nil && made.pidFile == nil)
  }

  @Test("every option arrives where it belongs")
  func everything() throws {
    let made = try configuration {
      $0.disks = ["a=1M", "b=2M,mode=snapshot"]
      $0.listen = ["tcp:h:1", "unix:/i"]
      $0.view = ["unix:v"]
      $0.admin = "unix:/adm"
      $0.run = "true"
      $0.unarrived = "zeroes"
      $0.afterComplete = "error"
      $0.readTimeout = "1.5"
      $0.spoolDirectory = "ring"
      $0.spoolSize = "16M"
      $0.acceptLoss = true
      $0.whenFull = "taint"
      $0.stallBudget = "250"
      $0.pidFile = "pid"
      $0.logLevel = "debug"
      $0.maximumConnections = "7"
    }
    #expect(made.disks.map(\.name) == ["a", "b"])
    #expect(made.listen == [.tcp(host: "h", port: 1), .unix(path: "/i")])
    #expect(made.view == [.unix(path: "/here/v")])
    #expect(made.adminPath == "/adm")
    #expect(made.command == "true")
    #expect(made.journal.unarrived == .zeroes)
    #expect(made.journal.afterComplete == .error)
    #expect(made.journal.readTimeoutNanoseconds == 1_500_000_000)
    #expect(made.journal.whenFull == .taint && made.journal.stallBudgetNanoseconds == 250_000_000)
    #expect(made.journal.spoolDirectory == "/here/ring")
    #expect(made.journal.spoolByteCount == 16 << 20)
    #expect(made.journal.acceptLoss)
    #expect(made.pidFile == "/here/pid")
    #expect(made.logLevel == .debug)
    #expect(made.maximumConnections == 7)
  }

  private typealias Change = @Sendable (inout ServeArguments) -> Void

  private static let wrong: [(String, Change)] = [
    ("--disk", { $0.disks = ["a=1M", "a=1M"] }),
    ("--listen", { $0.listen = ["vsock:1"] }),
    ("--view", { $0.view = ["tcp:h"] }),
    ("--admin", { $0.admin = "tcp:h:1" }),
    ("--unarrived", { $0.unarrived = "Wait" }),
    ("--after-complete", { $0.afterComplete = "wait" }),
    ("--read-timeout", { $0.readTimeout = "-1" }),
    ("--read-timeout", { $0.readTimeout = "1e3" }),
    ("--read-timeout", { $0.readTimeout = "" }),
    ("--read-timeout", { $0.readTimeout = "." }),
    ("--read-timeout", { $0.readTimeout = "99999999999" }),
    ("--spool-size", { $0.spoolSize = "16777215" }),
    ("--spool-size", { $0.spoolSize = "many" }),
    ("--when-full", { $0.whenFull = "panic" }),
    ("--stall-budget", { $0.stallBudget = "1s" }),
    ("--stall-budget", { $0.stallBudget = "86400001" }),
    ("--log-level", { $0.logLevel = "trace" }),
    ("--max-connections", { $0.maximumConnections = "0" }),
    ("--max-connections", { $0.maximumConnections = "x" }),
  ]

  @Test("a wrong value is a usage error that names its option", arguments: wrong.indices)
  func bad(index: Int) {
    let (option, change) = Self.wrong[index]
    let error = #expect(throws: ServiceError.self) { try configuration(change) }
    #expect(error?.status == .usage)
    #expect(error?.message.hasPrefix(option) == true)
  }

  @Test("two sockets cannot share an address")
  func sharedAddress() {
    let error = #expect(throws: ServiceError.self) {
      try configuration { $0.listen = ["unix:/here/j/view.sock"] }
    }
    #expect(error?.status == .usage)
  }

  @Test("two sockets can both ask for any port")
  func anyPort() throws {
    let made = try configuration {
      $0.listen = ["tcp:h:0", "tcp:h:0"]
      $0.view = ["tcp:h:0"]
    }
    #expect(made.listen.count == 2)
  }

  @Test("a deep journal directory says which option shortens the socket's path")
  func deepDirectory() throws {
    let deep = "/" + String(repeating: "d", count: 100)
    let error = #expect(throws: ServiceError.self) { try configuration(journal: deep) }
    #expect(error?.status == .usage)
    #expect(error?.message.contains("--listen unix:PATH") == true)
    #expect(throws: Never.self) {
      try configuration(journal: deep) {
        $0.listen = ["unix:/i"]
        $0.view = ["unix:/v"]
        $0.admin = "unix:/a"
      }
    }
  }

  @Test("the smallest time limit is not mistaken for none")
  func tinyTimeout() throws {
    #expect(try configuration { $0.readTimeout = "0.0000000001" }.journal.readTimeoutNanoseconds == 1)
  }

  @Test("TLS takes certificates or keys, with absolute paths")
  func tls() throws {
    let certified = try configuration {
      $0.tls = "require"
      $0.tlsCertificates = "pki"
      $0.tlsVerifyPeer = true
    }
    #expect(certified.tls?.isRequired == true)
    #expect(certified.tls?.secret == .certificates(directory: "/here/pki", verifiesPeer: true))
    let keyed = try configuration {
      $0.tls = "on"
      $0.tlsKeys = "/keys"
    }
    #expect(keyed.tls?.isRequired == false && keyed.tls?.secret == .keys(file: "/keys"))
    #expect(keyed.tls?.isRequired(for: "vda") == false && certified.tls?.isRequired(for: "vda") == true)
    #expect(try configuration { $0.tls = "off" }.tls == nil)
  }

  @Test("disks that are served behind TLS only are disks that exist")
  func tlsOnly() throws {
    let tls = try #require(
      try configuration {
        $0.tls = "on"
        $0.tlsKeys = "/keys"
        $0.tlsOnly = ["vdb", "vdc"]
      }.tls)
    #expect(["vda", "vdb", "vdc"].map { tls.isRequired(for: $0) } == [false, true, true])
    try tls.check(["vdc", "vda", "vdb"])
    let error = #expect(throws: ServiceError.self) { try tls.check(["vda", "vdb"]) }
    #expect(error?.status == .usage && error?.message.contains("--tls-only vdc") == true)
  }

  @Test(
    "TLS that could not work is a usage error",
    arguments: [
      { $0.tls = "maybe" }, { $0.tls = "on" }, { $0.tlsCertificates = "pki" }, { $0.tlsVerifyPeer = true },
      {
        $0.tls = "on"
        $0.tlsKeys = "k"
        $0.tlsCertificates = "pki"
      },
      {
        $0.tls = "require"
        $0.tlsKeys = "k"
        $0.tlsVerifyPeer = true
      },
      { $0.tlsOnly = ["vda"] },
      {
        $0.tls = "on"
        $0.tlsKeys = "k"
        $0.tlsOnly = ["vda@live"]
      },
    ] as [@Sendable (inout ServeArguments) -> Void])
  func wrongTLS(change: @escaping @Sendable (inout ServeArguments) -> Void) {
    let error = #expect(throws: ServiceError.self) { try configuration(change) }
    #expect(error?.status == .usage)
  }
}
