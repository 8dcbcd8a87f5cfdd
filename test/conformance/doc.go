// Conformance is an agent that was written from docs/protocol.md and api/agent/v1/agent.proto alone, in a module that cannot import
// Rollcall's. It proves the document: it enrols, beats, obeys and renews against a real gateway, and tries what a gateway must refuse.
//
//	go run . -server https://host:8443 -token-file token
//
// It prints one line for each thing that it tried and exits 0 if every MUST that it can see holds. It leaves an Endpoint behind. With the
// standard library it speaks proto3 JSON; one heartbeat goes in protobuf, encoded by hand.
//
// If content is offered to its endpoint, it downloads it, but puts none to use: it verifies no publisher's signature. Let no policy pin content
// there: what is pinned is offered until it is in use. That an endpoint has two downloads at once it sees only with a file that takes a while.
//
// With -actions it takes actions, too. Only people can create them: it prints lines that begin with "  wants ", and whoever runs it has a
// minute for each to create an action of that type for its endpoint, or to cancel the one with that UID:
//
//	wants PerformHeartbeat for identity <identity>
//	wants cancel <UID of an action> for identity <identity>
package main
