package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// postOn sends an enrolment on a client's kept connections and returns the status.
func postOn(t testing.TB, client *http.Client, address string, req *agentv1.EnrollRequest) int {
	body, err := protojson.Marshal(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+wire.PathEnroll, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(wire.HeaderAgentVersion, "8.0.0")
	resp, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// nothingInSlot tells whether the certificate request of a machine's key has been cleared away.
func nothingInSlot(t testing.TB, s *system, m *machine) error {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(m.key.Public())
	if err != nil {
		return err
	}
	slot := identity.AgentSlot(spki)
	if out := s.api.Kubectl(t, "get", "csr", slot, "--ignore-not-found", "-o", "name"); out != "" {
		return errNot{slot, "gone"}
	}
	return nil
}

// tryKeptBeat sends a heartbeat on a client that keeps its connection.
func tryKeptBeat(t testing.TB, client *http.Client, m *machine, hb *agentv1.Heartbeat) (int, error) {
	t.Helper()
	client.Transport.(*http.Transport).DisableKeepAlives = false
	body, err := protojson.Marshal(hb)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+m.address+wire.PathHeartbeat, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(wire.HeaderAgentVersion, "8.0.0")
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func keptBeat(t testing.TB, client *http.Client, m *machine, hb *agentv1.Heartbeat, want int) {
	t.Helper()
	if status, err := tryKeptBeat(t, client, m, hb); err != nil || status != want {
		t.Fatalf("heartbeat: %d %v, want %d", status, err, want)
	}
}
