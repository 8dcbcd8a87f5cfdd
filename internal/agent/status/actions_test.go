package status

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What `cytool actions` prints.
func TestActionsText(t *testing.T) {
	some := Actions{Actions: []Action{
		{UID: "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Type: "TerminateProcess", State: Running, SecondsAgo: 12, By: "alice"},
		{UID: "1b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Type: "TerminateProcess", State: Waiting, SecondsAgo: 3, By: "system:serviceaccount:flux:apply"},
		{UID: "2b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", State: Lost, SecondsAgo: 7200},
		{UID: "3b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Type: "PerformHeartbeat", State: Reported, SecondsAgo: 61, By: "alice", Outcome: "Succeeded", Reason: "Done", Message: "full report received in 31 ms"},
		{UID: "4b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Type: "TerminateProcess", State: Reported, SecondsAgo: 90, By: "alice", Outcome: "Failed", Reason: "NoSuchProcess", Message: "no process runs /usr/bin/sleep"},
		{UID: "5b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", State: Reported, SecondsAgo: 90, Outcome: "Cancelled", Reason: "Cancelled"},
	}, Omitted: 7}
	for name, c := range map[string]struct {
		actions Actions
		want    string
	}{
		"none": {Actions{}, "no actions: none has come, and none is remembered\n"},
		"some": {some, `UID                                    TYPE               STATE      SINCE   BY                                 RESULT
0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   TerminateProcess   running    12s     alice                              -
1b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   TerminateProcess   waiting    3s      system:serviceaccount:flux:apply   -
2b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   -                  lost       2h0m    -                                  -
3b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   PerformHeartbeat   reported   1m1s    alice                              Succeeded: full report received in 31 ms
4b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   TerminateProcess   reported   1m30s   alice                              Failed (NoSuchProcess): no process runs /usr/bin/sleep
5b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02   -                  reported   1m30s   -                                  Cancelled

Older            7 more, all of them reported
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := c.actions.Write(&out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if err := some.Write(broken{}); err == nil {
		t.Error("what cannot be written is no error")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }
