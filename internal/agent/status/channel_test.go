package status

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What `cytool websocket` prints.
func TestChannelText(t *testing.T) {
	blocked := online()
	blocked.Heartbeat = Heartbeat{LastSecondsAgo: new(int64(11)), Over: OverHTTPS, Accepted: true, AcceptedSecondsAgo: new(int64(11)), NextInSeconds: new(int64(4))}
	blocked.Websocket = Websocket{
		State: Disconnected, ForSeconds: new(int64(58)), Error: "the upgrade was answered with 403",
		Detail:  "the server, or a proxy on the way, answered the upgrade with 403 Forbidden",
		Attempt: 6, NextAttemptInSeconds: new(int64(37)),
	}
	flapping := online()
	flapping.Websocket.Error = "no answer came for 20s"
	silent := online()
	silent.Websocket = Websocket{State: Disconnected, ForSeconds: new(int64(1)), Error: "no answer came for 20s", Attempt: 2}
	old := blocked
	old.Websocket = Websocket{
		State: Unsupported, ForSeconds: new(int64(58)), Error: "agent 6.0.4: the websocket needs 6.1 or later", Attempt: 2, NextAttemptInSeconds: new(int64(86000)),
	}
	disabled, connecting, fresh := blocked, online(), Status{Websocket: Websocket{State: Disconnected}, Problems: []Problem{{Name: "token-missing", Title: "This machine is not enrolled", Meaning: "None."}}}
	disabled.Websocket = Websocket{State: Disabled}
	connecting.Websocket = Websocket{State: Connecting, URL: online().Websocket.URL, Attempt: 1}
	for name, c := range map[string]struct {
		status Status
		want   string
	}{
		"connected": {online(), `Websocket        connected for 3m12s
Server           wss://127.0.0.1:8443/agent/v1/session   (gateway gw-5c9d7-x2k7q)
Transport        TLS 1.2, ECDHE-ECDSA-AES128-GCM-SHA256, mutual; v1.agent.rollcall.dev; no proxy
Round trip       0.4 ms, measured 11s ago
Last heartbeat   6s ago, accepted; next in 9s
`},
		"flapping": {flapping, `Websocket        connected for 3m12s
Server           wss://127.0.0.1:8443/agent/v1/session   (gateway gw-5c9d7-x2k7q)
Transport        TLS 1.2, ECDHE-ECDSA-AES128-GCM-SHA256, mutual; v1.agent.rollcall.dev; no proxy
Round trip       0.4 ms, measured 11s ago
Does not last    no answer came for 20s: so ended the one before
Last heartbeat   6s ago, accepted; next in 9s
`},
		"blocked": {blocked, `Websocket        disconnected for 58s: actions arrive with the next heartbeat, in 4s
Last error       the server, or a proxy on the way, answered the upgrade with 403 Forbidden
Next attempt     in 37s (the 6th)
Last heartbeat   11s ago over HTTPS, accepted
`},
		"trying again": {silent, `Websocket        disconnected for 1s: actions arrive with the next heartbeat, in 9s
Last error       no answer came for 20s
Next attempt     under way (the 2nd)
Last heartbeat   6s ago, accepted
`},
		"an old agent": {old, `Websocket        unsupported; agent 6.0.4: the websocket needs 6.1 or later
Meanwhile        actions arrive with the next heartbeat, in 4s
Next attempt     in 23h53m (the 2nd)
Last heartbeat   11s ago over HTTPS, accepted
`},
		"disabled": {disabled, `Websocket        disabled by the policy: actions arrive with the next heartbeat, in 4s
Last heartbeat   11s ago over HTTPS, accepted
`},
		"connecting": {connecting, `Websocket        connecting
Server           wss://127.0.0.1:8443/agent/v1/session   (gateway gw-5c9d7-x2k7q)
Last heartbeat   6s ago, accepted; next in 9s
`},
		"not enrolled": {fresh, `Websocket        disconnected: this machine is not enrolled

Problem          This machine is not enrolled (token-missing)
What it means    None.
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := c.status.Channel().Write(&out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOrdinal(t *testing.T) {
	for n, want := range map[int]string{1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 102: "102nd", 111: "111th"} {
		if got := ordinal(n); got != want {
			t.Errorf("ordinal(%d) = %s", n, got)
		}
	}
}
