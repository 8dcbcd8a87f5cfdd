package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// controlTimeout is for one request on the control socket.
const controlTimeout = 5 * time.Second

// Control is how a relay is steered: GET /mode tells its mode, PUT /mode sets it. Serve it where nobody but its owner gets: on a Unix
// socket in a directory of theirs.
func (r *Relay) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mode", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, r.Mode())
	})
	mux.HandleFunc("PUT /mode", func(w http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m, err := ParseMode(strings.TrimSpace(string(b)))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Switch(m)
		_, _ = fmt.Fprintln(w, m)
	})
	return mux
}

// Ask returns the mode of the relay that is steered by a control socket.
func Ask(ctx context.Context, socket string) (Mode, error) {
	return control(ctx, socket, http.MethodGet, "")
}

// Switch sets the mode of the relay that is steered by a control socket. When it returns, that has happened.
func Switch(ctx context.Context, socket string, to Mode) error {
	_, err := control(ctx, socket, http.MethodPut, to.String())
	return err
}

func control(ctx context.Context, socket, method, body string) (Mode, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://relay/mode", strings.NewReader(body))
	if err != nil {
		return Mode{}, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return Mode{}, fmt.Errorf("ask the relay: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return Mode{}, fmt.Errorf("ask the relay: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return Mode{}, errors.New(strings.TrimSpace(string(b)))
	}
	return ParseMode(strings.TrimSpace(string(b)))
}
