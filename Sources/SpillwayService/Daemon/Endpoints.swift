package import NBDServer

/// Where clients find the exports: the URIs of the ready line and the variables of `--run`.
package struct Endpoints: Sendable {
  private let listen: [ListenAddress]
  private let view: [ListenAddress]
  private let disks: [String]
  private let secured: Set<String>

  /// The endpoints of `disks` (the first is the one that `$uri` names) at the addresses that were bound. None
  /// of the lists is empty. Clients of the disks `secured` have to use TLS.
  package init(
    listen: [ListenAddress], view: [ListenAddress], disks: [String], secured: Set<String> = []
  ) {
    precondition(!listen.isEmpty && !view.isEmpty && !disks.isEmpty, "there is nothing to announce")
    self.listen = listen
    self.view = view
    self.disks = disks
    self.secured = secured
  }

  /// The line that says that clients may come: every disk at every address, ingest before views.
  package var readyLine: String {
    let ingest = disks.flatMap { disk in listen.map { uri($0, disk, disk) } }
    let views = disks.flatMap { disk in view.map { uri($0, Self.view(disk), disk) } }
    return "ready: " + (ingest + views).joined(separator: " ")
  }

  /// What COMMAND finds in its environment. The sockets are empty when there is no unix one.
  package var variables: [String: String] {
    [
      "uri": uri(listen[0], disks[0], disks[0]),
      "view_uri": uri(view[0], Self.view(disks[0]), disks[0]),
      "unixsocket": listen.lazy.compactMap(\.unixPath).first ?? "",
      "view_unixsocket": view.lazy.compactMap(\.unixPath).first ?? "",
    ]
  }

  private func uri(_ address: ListenAddress, _ export: String, _ disk: String) -> String {
    address.uri(export: export, secure: secured.contains(disk))
  }

  private static func view(_ disk: String) -> String { disk + "@live" }
}
