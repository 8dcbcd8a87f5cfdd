// Package control is how cytool asks the agent on its machine: HTTP with JSON over a unix socket that only the agent's own user may open.
// The socket is 0600 in a directory that is 0700, and whoever gets past that is asked for by the kernel.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

// Routes.
const (
	pathStatus  = "/v1/status"
	pathCheckin = "/v1/checkin"
	pathActions = "/v1/actions"
)

// checkinTimeout bounds a check-in: an enrolment and a heartbeat at a slow server.
const checkinTimeout = 100 * time.Second

// Agent is who is asked.
type Agent interface {
	Status() status.Status
	Checkin(context.Context) error
	Actions() (status.Actions, error)
}

// SocketPath is where the agent with this state directory listens.
func SocketPath(stateDir string) string { return filepath.Join(stateDir, "agent.sock") }

// Listen makes the socket. One that a killed agent left is replaced: the caller holds the directory's lock.
func Listen(stateDir string) (net.Listener, error) {
	path := SocketPath(stateDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an agent that is gone: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for cytool (a socket's path has at most 107 bytes, this one %d): %w", len(path), err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for cytool: %w", err)
	}
	return l, nil
}

type peerKey struct{}

// Serve answers until ctx ends.
func Serve(ctx context.Context, l net.Listener, agent Agent) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) { answer(w, agent.Status()) })
	mux.HandleFunc("POST "+pathCheckin, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkinTimeout)
		defer cancel()
		if err := agent.Checkin(ctx); err != nil {
			http.Error(w, "the agent did not finish its check-in in time", http.StatusGatewayTimeout)
			return
		}
		answer(w, agent.Status())
	})
	mux.HandleFunc("GET "+pathActions, func(w http.ResponseWriter, _ *http.Request) {
		actions, err := agent.Actions()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, actions)
	})
	server := &http.Server{
		Handler:           ownUser(mux),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    4 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, checkPeer(c))
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(l) // ends by Close
}

// ownUser refuses who is not the agent's user, whatever the permissions of the socket have become.
func ownUser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func checkPeer(c net.Conn) error {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	uid, err := peerUID(unix)
	if err != nil {
		return fmt.Errorf("cannot tell who asks: %w", err)
	}
	if own := os.Geteuid(); uid != own {
		return fmt.Errorf("the agent runs as user %d and answers to nobody else, not to user %d", own, uid)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the asker may be gone
}
