/// The options of `serve` as they were typed; `ServeConfiguration` is what they mean.
package struct ServeArguments: Sendable {
  /// `-j`.
  package var journal: String
  /// `--disk`, in order.
  package var disks: [String] = []
  /// `--listen` and `--view`, in order; none means the default socket in the journal directory.
  package var listen: [String] = []
  package var view: [String] = []
  /// `--admin`; nil means the default socket in the journal directory.
  package var admin: String?
  /// `--run`.
  package var run: String?
  /// `--unarrived` and `--after-complete`.
  package var unarrived: String?
  package var afterComplete: String?
  /// `--read-timeout`, in seconds.
  package var readTimeout: String?
  /// `--spool-dir` and `--spool-size`.
  package var spoolDirectory: String?
  package var spoolSize: String?
  /// `--accept-loss`.
  package var acceptLoss = false
  /// `--pid-file`.
  package var pidFile: String?
  /// `--log-level`.
  package var logLevel: String?
  /// `--max-connections`.
  package var maximumConnections: String?

  /// Only the journal directory; everything else as if it had not been typed.
  package init(journal: String) { self.journal = journal }
}
