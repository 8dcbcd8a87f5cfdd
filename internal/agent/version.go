// Package agent is the reference agent: it enrols a machine, keeps its identity, beats, and obeys what the fleet's manager signed.
//
// The engine is one goroutine. Step does whatever is due and says how long until the next thing is; Run calls it until it is told to
// stop. Time is what the Host says, so that a test can drive it.
package agent

// Version of the agent, set at build time: -ldflags "-X github.com/rollcall-dev/rollcall/internal/agent.Version=8.0.1".
var Version = "8.0.0"
