// Package status is what an agent says of itself to the person on its machine, in JSON and in words.
package status

import "time"

// Status is the whole of it. Moments are given as seconds ago or from now, by the time since boot: a wrong clock does not matter.
type Status struct {
	// State in one word; see package problem.
	State       string       `json:"state"`
	Agent       Agent        `json:"agent"`
	Endpoint    *Endpoint    `json:"endpoint,omitempty"`
	Server      Server       `json:"server"`
	Trust       *Trust       `json:"trust,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Policy      Policy       `json:"policy"`
	Content     Content      `json:"content"`
	Heartbeat   Heartbeat    `json:"heartbeat"`
	Websocket   Websocket    `json:"websocket"`
	Clock       Clock        `json:"clock"`
	Orders      Orders       `json:"orders"`
	Actions     Open         `json:"actions"`
	// Problems, the one that keeps it from its server first.
	Problems []Problem `json:"problems,omitempty"`
	// Damaged files were set aside.
	Damaged []string `json:"damaged,omitempty"`
}

// Agent is this process.
type Agent struct {
	Version  string `json:"version"`
	Platform string `json:"platform"`
	Instance string `json:"instance"`
	Epoch    uint64 `json:"epoch"`
	StateDir string `json:"stateDir"`
	// Capabilities are the types of action that it can do.
	Capabilities []string `json:"capabilities"`
}

// Endpoint is who this machine is to its fleet.
type Endpoint struct {
	Identity  string `json:"identity"`
	Fleet     string `json:"fleet"`
	Namespace string `json:"namespace,omitempty"`
}

// Server is whom the agent talks to.
type Server struct {
	URL     string `json:"url"`
	Proxy   string `json:"proxy,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	// CipherSuite of the last connection.
	CipherSuite string `json:"cipherSuite,omitempty"`
}

// Trust is the bundle in use.
type Trust struct {
	Version  uint64    `json:"version"`
	IssuedAt time.Time `json:"issuedAt"`
}

// Certificate is the agent's.
type Certificate struct {
	NotAfter         time.Time `json:"notAfter"`
	ExpiresInSeconds int64     `json:"expiresInSeconds"`
	// RenewsInSeconds is absent until the time is known.
	RenewsInSeconds *int64 `json:"renewsInSeconds,omitempty"`
	// Renewing: a renewal was sent and is not answered yet.
	Renewing bool `json:"renewing,omitempty"`
}

// Policy in use; an empty ID means the built-in defaults.
type Policy struct {
	ID                       string `json:"id,omitempty"`
	Revision                 uint64 `json:"revision,omitempty"`
	HeartbeatIntervalSeconds int64  `json:"heartbeatIntervalSeconds"`
}

// Phases of content.
const (
	Current     = "Current"
	Downloading = "Downloading"
	Failed      = "Failed"
	Deferred    = "Deferred"
)

// Content is what is in use, and what becomes of what is offered.
type Content struct {
	// Version in use, its Digest and since when it is, by the fleet's time; absent if none is.
	Version string     `json:"version,omitempty"`
	Digest  string     `json:"digest,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	// Phase is Current, Downloading, Failed or Deferred; absent if nothing was offered yet.
	Phase string `json:"phase,omitempty"`
	// Offered is the version that Phase is about where that is not the one in use, and Sequence its offer's.
	Offered  string `json:"offered,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"`
	// Reason in a word, and Message in more.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Downloaded and Size are bytes of the offered file; absent where none is wanted.
	Downloaded int64 `json:"downloadedBytes,omitempty"`
	Size       int64 `json:"sizeBytes,omitempty"`
	// RetryInSeconds is absent while an attempt is under way, and where there is to be none.
	RetryInSeconds *int64 `json:"retryInSeconds,omitempty"`
}

// Heartbeat is the last one, and the next.
type Heartbeat struct {
	// LastSecondsAgo is absent before the first.
	LastSecondsAgo *int64 `json:"lastSecondsAgo,omitempty"`
	Accepted       bool   `json:"accepted"`
	// AcceptedSecondsAgo is absent before the first that was.
	AcceptedSecondsAgo *int64 `json:"acceptedSecondsAgo,omitempty"`
	// Over is the way that the last one took, websocket or HTTPS; empty before the first.
	Over string `json:"over,omitempty"`
	// NextInSeconds is absent where none is planned.
	NextInSeconds *int64 `json:"nextInSeconds,omitempty"`
	// AcceptedCount and FailedCount since the start.
	AcceptedCount uint64 `json:"acceptedCount"`
	FailedCount   uint64 `json:"failedCount"`
}

// Clock is the machine's against the fleet's.
type Clock struct {
	// Known is false until a beacon came.
	Known            bool      `json:"known"`
	Now              time.Time `json:"now"`
	SkewSeconds      int64     `json:"skewSeconds"`
	BeaconAgeSeconds int64     `json:"beaconAgeSeconds"`
}

// Orders that were refused since the start.
type Orders struct {
	Rejected      uint64 `json:"rejected"`
	LastRejection string `json:"lastRejection,omitempty"`
}

// Problem is in the way of something.
type Problem struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Meaning string `json:"meaning"`
	Advice  string `json:"advice,omitempty"`
	// Detail is what the server, or the system, said.
	Detail string `json:"detail,omitempty"`
	// RetryInSeconds is absent where only a person can help.
	RetryInSeconds *int64 `json:"retryInSeconds,omitempty"`
}

// States of a websocket.
const (
	Connected    = "connected"
	Connecting   = "connecting"
	Disconnected = "disconnected"
	Disabled     = "disabled"
	Unsupported  = "unsupported"
)

// Ways of a heartbeat.
const (
	OverWebsocket = "websocket"
	OverHTTPS     = "HTTPS"
)

// Websocket is the channel by which orders come at once.
type Websocket struct {
	// State is connected, connecting, disconnected, disabled (by the policy) or unsupported (by this version of the agent, or the server's).
	State string `json:"state"`
	// ForSeconds is how long it has been connected, or has not.
	ForSeconds *int64 `json:"forSeconds,omitempty"`
	URL        string `json:"url"`
	// Subprotocol that was agreed.
	Subprotocol string `json:"subprotocol,omitempty"`
	// RoundTripMilliseconds from a message to its answer, and when that was measured; absent where it was not.
	RoundTripMilliseconds *float64 `json:"roundTripMilliseconds,omitempty"`
	RoundTripSecondsAgo   *int64   `json:"roundTripSecondsAgo,omitempty"`
	// Error is why there is none, or why those before it did not last, in the words that the Endpoint has in its status; Detail says more, where there is more to say.
	Error  string `json:"error,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Attempt is the number of the next one, or of the one under way, counted from when there was none any more. NextAttemptInSeconds is
	// absent while it is under way, and where there is to be none.
	Attempt              int    `json:"attempt,omitempty"`
	NextAttemptInSeconds *int64 `json:"nextAttemptInSeconds,omitempty"`
	// OpenedCount and LostCount of websockets since the start.
	OpenedCount uint64 `json:"openedCount"`
	LostCount   uint64 `json:"lostCount"`
}

// Channel is what `cytool websocket` shows: the part of a status that speaks of it.
type Channel struct {
	Websocket
	Enrolled  bool      `json:"enrolled"`
	Server    Server    `json:"server"`
	Heartbeat Heartbeat `json:"heartbeat"`
	Problems  []Problem `json:"problems,omitempty"`
}

// Channel is the part of a status that speaks of the websocket.
func (s Status) Channel() Channel {
	return Channel{Websocket: s.Websocket, Enrolled: s.Endpoint != nil, Server: s.Server, Heartbeat: s.Heartbeat, Problems: s.Problems}
}
