package keys

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestNextBeacon(t *testing.T) {
	f := &Fleet{ID: "11111111-1111-4111-8111-111111111111"}
	f.trust.Store(&identity.Trust{Version: 7})
	p := &Publisher{Fleet: f}
	beacon := func(at time.Time) *agentv1.Beacon { return &agentv1.Beacon{IssuedAt: timestamppb.New(at)} }
	for _, tc := range []struct {
		name  string
		skew  time.Duration
		known bool
		last  *agentv1.Beacon
		fails string
	}{
		{name: "the first", known: true},
		{name: "the next", known: true, last: beacon(noon.Add(-time.Minute))},
		{name: "the API server's time is unknown", fails: "not known yet"},
		{name: "a little ahead", known: true, skew: 30 * time.Second},
		{name: "too far ahead", known: true, skew: 31 * time.Second, fails: "differs from the API server's by 31s"},
		{name: "too far behind", known: true, skew: -31 * time.Second, fails: "differs from the API server's by -31s"},
		{name: "another leader's clock was ahead", known: true, last: beacon(noon.Add(time.Second)), fails: "not past yet"},
		{name: "the same moment again", known: true, last: beacon(noon), fails: "not past yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := p.next(noon, tc.skew, tc.known, tc.last)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("got %v, %v; want an error with %q", got, err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.GetFleetId() != f.ID || got.GetTrustVersion() != 7 || !got.GetIssuedAt().AsTime().Equal(noon) {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestServerClock(t *testing.T) {
	c := &ServerClock{}
	if _, known := c.Skew(); known {
		t.Error("it knows a time that nobody told")
	}
	c.observe("yesterday", noon)
	if _, known := c.Skew(); known {
		t.Error("it took nonsense for a time")
	}
	c.observe(noon.Add(-time.Minute).Format(http.TimeFormat), noon)
	if skew, known := c.Skew(); !known || skew < 59*time.Second || skew > 61*time.Second {
		t.Errorf("got %s, %v; want a minute", skew, known)
	}
}
