// Package drill is what the bench tells a crowd of clients to do, and what came of it: one line of JSON each, on its standard input and output.
package drill

import "time"

// Kind of server that clients talk to.
type Kind string

// Kinds of servers.
const (
	Session Kind = "session" // a gateway, by websocket
	HTTPS   Kind = "https"   // a gateway, by a connection anew for each heartbeat
	Raw     Kind = "raw"     // the raw echo
	OpAMP   Kind = "opamp"   // opamp-go's server
)

// Deed of a crowd.
type Deed string

// Deeds.
const (
	Open      Deed = "open"      // connect Count clients and keep them
	Beat      Deed = "beat"      // heartbeats in a closed loop, Workers at once, for Time
	Round     Deed = "round"     // each client beats once
	Pace      Deed = "pace"      // heartbeats at Rate a second, for Time, each timed
	Reconnect Deed = "reconnect" // Count agents connect once, one after the other by Workers, and are closed at once
	Close     Deed = "close"     // close them all
	Attack    Deed = "attack"    // Count hostile clients, until the next deed
)

// Order of a deed.
type Order struct {
	Deed    Deed          `json:"deed"`
	Kind    Kind          `json:"kind"`
	Address string        `json:"address"`
	Count   int           `json:"count,omitempty"`
	Workers int           `json:"workers,omitempty"`
	Time    time.Duration `json:"time,omitempty"`
	Rate    float64       `json:"rate,omitempty"`
	// Resume says that Reconnect is to resume the TLS session of the connection before.
	Resume bool `json:"resume,omitempty"`
	// Skip so many agents.
	Skip int `json:"skip,omitempty"`
	// Hello says that Reconnect is to send a first heartbeat.
	Hello bool `json:"hello,omitempty"`
	// Request and Reply are the bytes of a heartbeat and of its answer, for servers that do not care what they are.
	Request int `json:"request,omitempty"`
	Reply   int `json:"reply,omitempty"`
}

// Report of what came of an order.
type Report struct {
	Done   int `json:"done"`
	Failed int `json:"failed"`
	// Took is how long it was under way.
	Took time.Duration `json:"took"`
	// Median, P99 and Max of the time that each heartbeat, or connection, took.
	Median time.Duration `json:"median"`
	P99    time.Duration `json:"p99"`
	Max    time.Duration `json:"max"`
	// Resumed is how many TLS handshakes were.
	Resumed int `json:"resumed,omitempty"`
	// Request and Reply are the bytes of the last heartbeat and of its answer.
	Request int `json:"request,omitempty"`
	Reply   int `json:"reply,omitempty"`
	// Errors are some of what went wrong; with nothing done, the order itself failed.
	Errors []string `json:"errors,omitempty"`
}
