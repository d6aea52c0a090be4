package import NBDServer

/// Where clients find the exports: the URIs of the ready line and the variables of `--run`.
package struct Endpoints: Sendable {
  private let listen: [ListenAddress]
  private let view: [ListenAddress]
  private let disks: [String]

  /// The endpoints of `disks` (the first is the one that `$uri` names) at the addresses that were bound. None
  /// of the lists is empty.
  package init(listen: [ListenAddress], view: [ListenAddress], disks: [String]) {
    precondition(!listen.isEmpty && !view.isEmpty && !disks.isEmpty, "there is nothing to announce")
    self.listen = listen
    self.view = view
    self.disks = disks
  }

  /// The line that says that clients may come: every disk at every address, ingest before views.
  package var readyLine: String {
    let ingest = disks.flatMap { disk in listen.map { $0.uri(export: disk) } }
    let views = disks.flatMap { disk in view.map { $0.uri(export: Self.view(disk)) } }
    return "ready: " + (ingest + views).joined(separator: " ")
  }

  /// What COMMAND finds in its environment. The sockets are empty when there is no unix one.
  package var variables: [String: String] {
    [
      "uri": listen[0].uri(export: disks[0]),
      "view_uri": view[0].uri(export: Self.view(disks[0])),
      "unixsocket": listen.lazy.compactMap(\.unixPath).first ?? "",
      "view_unixsocket": view.lazy.compactMap(\.unixPath).first ?? "",
    ]
  }

  private static func view(_ disk: String) -> String { disk + "@live" }
}
