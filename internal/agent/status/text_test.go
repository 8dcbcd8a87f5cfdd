package status

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func online() Status {
	return Status{
		State:       "Online",
		Agent:       Agent{Version: "8.0.0", Platform: "linux/amd64", Epoch: 7, StateDir: "/var/lib/rollcall"},
		Endpoint:    &Endpoint{Identity: "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Fleet: "5f8b0c3e-6f0a-4a53-9f64-0e6a3f1f6a01", Namespace: "fleet"},
		Server:      Server{URL: "https://127.0.0.1:8443", Gateway: "gw-5c9d7-x2k7q", CipherSuite: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
		Trust:       &Trust{Version: 3, IssuedAt: at},
		Certificate: &Certificate{NotAfter: at.Add(720 * time.Hour), ExpiresInSeconds: 720 * 3600, RenewsInSeconds: new(int64(480 * 3600))},
		Policy:      Policy{ID: "aaaaaaaa-2b1c-4d53-8a64-1e6a3f1f6b02", Revision: 3, HeartbeatIntervalSeconds: 15},
		Heartbeat:   Heartbeat{LastSecondsAgo: new(int64(6)), Accepted: true, AcceptedSecondsAgo: new(int64(6)), NextInSeconds: new(int64(9))},
		Websocket: Websocket{
			State: Connected, ForSeconds: new(int64(192)), URL: "wss://127.0.0.1:8443/agent/v1/session", Subprotocol: "v1.agent.rollcall.dev",
			RoundTripMilliseconds: new(0.42), RoundTripSecondsAgo: new(int64(11)),
		},
		Clock: Clock{Known: true, BeaconAgeSeconds: 12},
	}
}

func TestStatusText(t *testing.T) {
	refused := online()
	refused.State = "Suspended"
	refused.Heartbeat = Heartbeat{LastSecondsAgo: new(int64(61)), AcceptedSecondsAgo: new(int64(7300)), NextInSeconds: new(int64(800))}
	refused.Websocket = Websocket{State: Disconnected, ForSeconds: new(int64(61)), Error: "the server closed it with 4403 (endpoint-suspended)"}
	refused.Clock.SkewSeconds = -1020
	refused.Certificate = &Certificate{NotAfter: at, ExpiresInSeconds: -90, Renewing: true}
	refused.Server.Proxy = "http://proxy.example:3128"
	refused.Actions = Open{Waiting: 2, Running: 1, Ended: 253, Full: true}
	refused.Orders = Orders{Rejected: 2, LastRejection: "policy: Superseded"}
	refused.Damaged = []string{"/var/lib/rollcall/state, kept as state.corrupt: its checksum is wrong"}
	refused.Problems = []Problem{{
		Name: "endpoint-suspended", Title: "The endpoint is suspended", Meaning: strings.Repeat("word ", 30), Advice: "Ask.", Detail: "Because.", RetryInSeconds: new(int64(800)),
	}}
	for name, c := range map[string]struct {
		status Status
		want   string
	}{
		"online": {online(), `State            Online
Endpoint         0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   (namespace fleet)
Fleet            5f8b0c3e-6f0a-4a53-9f64-0e6a3f1f6a01
Server           https://127.0.0.1:8443   (gateway gw-5c9d7-x2k7q); no proxy
Websocket        connected for 3m12s
Trust            version 3, issued 2026-11-24 12:00:00Z
Certificate      expires in 30d0h, on 2026-12-24 12:00:00Z; renewal in 20d0h
Policy           aaaaaaaa-2b1c-4d53-8a64-1e6a3f1f6b02, revision 3: a heartbeat every 15s
Content          none yet
Last heartbeat   6s ago, accepted; next in 9s
Clock            as the fleet's; last beacon 12s old
Agent            8.0.0, linux/amd64; start 7; /var/lib/rollcall
`},
		"refused": {refused, `State            Suspended
Endpoint         0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   (namespace fleet)
Fleet            5f8b0c3e-6f0a-4a53-9f64-0e6a3f1f6a01
Server           https://127.0.0.1:8443   (gateway gw-5c9d7-x2k7q); through the proxy http://proxy.example:3128
Websocket        disconnected for 1m1s: the server closed it with 4403 (endpoint-suspended)
Trust            version 3, issued 2026-11-24 12:00:00Z
Certificate      expired 1m30s ago, on 2026-11-24 12:00:00Z; being renewed
Policy           aaaaaaaa-2b1c-4d53-8a64-1e6a3f1f6b02, revision 3: a heartbeat every 15s
Content          none yet
Last heartbeat   1m1s ago, failed; the last accepted one 2h1m ago; next in 13m20s
Clock            17m behind the fleet's; last beacon 12s old
Actions          1 running, 2 waiting, 253 ended and not yet acknowledged by the server; no more are taken until some are acknowledged
Refused orders   2 since the start, the last for policy: Superseded
Agent            8.0.0, linux/amd64; start 7; /var/lib/rollcall
Damaged file     /var/lib/rollcall/state, kept as state.corrupt: its checksum is wrong

Problem          The endpoint is suspended (endpoint-suspended)
What it means    word word word word word word word word word word word word word word word word word
                 word word word word word word word word word word word word word
What was said    Because.
What to do       Ask.
Next attempt     in 13m20s
`},
		"new": {Status{
			State: "Enrolling", Agent: Agent{Version: "8.0.0", Platform: "linux/amd64", Epoch: 1, StateDir: "/x"}, Server: Server{URL: "https://gw:8443"},
			Policy: Policy{HeartbeatIntervalSeconds: 300},
		}, `State            Enrolling
Endpoint         none: this machine is not enrolled
Server           https://gw:8443; no proxy
Trust            none yet
Certificate      none yet
Policy           none assigned: built-in defaults, a heartbeat every 5m
Last heartbeat   none yet; none is planned
Clock            not compared yet: no beacon since the agent started
Agent            8.0.0, linux/amd64; start 1; /x
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := c.status.Write(&out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
