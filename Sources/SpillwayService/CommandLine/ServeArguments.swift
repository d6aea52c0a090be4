/// The options of `serve` as they were typed; `ServeConfiguration` is what they mean.
package struct ServeArguments: Sendable {
  /// `-j`.
  package var journal: String
  /// `--disk`, in order.
  package var disks: [String] = []
  /// `--source`, in order.
  package var sources: [String] = []
  /// `--qmp`.
  package var monitor: String?
  /// `--listen`, in order; none means the default socket in the journal directory.
  package var listen: [String] = []
  /// `--view`, in order; none means the default socket in the journal directory.
  package var view: [String] = []
  /// `--admin`; nil means the default socket in the journal directory.
  package var admin: String?
  /// `--run`.
  package var run: String?
  /// `--unarrived`; nil means to wait.
  package var unarrived: String?
  /// `--after-complete`; nil leaves it to the mode of the disk.
  package var afterComplete: String?
  /// `--read-timeout`, in seconds.
  package var readTimeout: String?
  /// `--spool-dir`.
  package var spoolDirectory: String?
  /// `--spool-size`, with or without a suffix such as M.
  package var spoolSize: String?
  /// `--accept-loss`.
  package var acceptLoss = false
  /// `--when-full`; nil means to stall.
  package var whenFull: String?
  /// `--stall-budget`, in milliseconds.
  package var stallBudget: String?
  /// `--allow-release`.
  package var allowRelease = false
  /// `--read-once`.
  package var readOnce = false
  /// `--quota`, with or without a suffix such as G.
  package var quota: String?
  /// `--history`, bytes with or without a suffix such as G, or seconds with an s; nil means none.
  package var history: String?
  /// `--keep`.
  package var keep: String?
  /// `--keep-only`, in order.
  package var keepOnly: [String] = []
  /// `--pid-file`.
  package var pidFile: String?
  /// `--log-level`.
  package var logLevel: String?
  /// `--tls`; nil means off.
  package var tls: String?
  /// `--tls-certificates`.
  package var tlsCertificates: String?
  /// `--tls-psk`.
  package var tlsKeys: String?
  /// `--tls-verify-peer`.
  package var tlsVerifyPeer = false
  /// `--tls-only`, in order.
  package var tlsOnly: [String] = []
  /// `--max-connections`.
  package var maximumConnections: String?

  /// Only the journal directory; everything else as if it had not been typed.
  package init(journal: String) { self.journal = journal }
}
