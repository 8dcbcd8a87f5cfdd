package rogue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// controlTimeout is for one misdeed.
const controlTimeout = 30 * time.Second

// Misdeed is something that it tries, by name.
type Misdeed string

// Ask says what a misdeed is about; each looks at some of it.
type Ask struct {
	// Namespace of all that is named.
	Namespace string `json:"namespace,omitempty"`
	// Endpoint whose agent is lied to, or that is written to; Other is another one.
	Endpoint string `json:"endpoint,omitempty"`
	Other    string `json:"other,omitempty"`
	// Action whose order is used, or that is written to; OtherAction is another one.
	Action      string `json:"action,omitempty"`
	OtherAction string `json:"otherAction,omitempty"`
	Policy      string `json:"policy,omitempty"`
	Token       string `json:"token,omitempty"`
	// Release whose offer is used, and its namespace if that is another.
	Release          string `json:"release,omitempty"`
	ReleaseNamespace string `json:"releaseNamespace,omitempty"`
	// Program that agents are to end.
	Program string `json:"program,omitempty"`
}

// Attempt is what became of one try.
type Attempt struct {
	What string `json:"what"`
	// Refused is what the API server or the manager has answered. It is empty if nobody has refused it, and for lies to agents: whether they
	// believe them is for the agents to say.
	Refused string `json:"refused,omitempty"`
}

func attempt(what string, err error) Attempt {
	if err != nil {
		return Attempt{what, err.Error()}
	}
	return Attempt{What: what}
}

func (a Attempt) String() string { return fmt.Sprintf("%s: %q", a.What, a.Refused) }

// Control is how a rogue is steered: POST /<misdeed> with an Ask, answered with Attempts, and GET /ready. Serve it on a Unix socket.
func (r *Rogue) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /{misdeed}", func(w http.ResponseWriter, req *http.Request) {
		do, known := misdeeds[Misdeed(req.PathValue("misdeed"))]
		if !known {
			http.Error(w, "it knows no such misdeed", http.StatusNotFound)
			return
		}
		var a Ask
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 64<<10)).Decode(&a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		attempts, err := do(r, req.Context(), a)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r.Log.Info("Tried a misdeed.", "misdeed", req.PathValue("misdeed"), "attempts", attempts)
		_ = json.NewEncoder(w).Encode(attempts) // whoever has gone does not hear it
	})
	return mux
}

// Try has the rogue that is steered by a control socket try a misdeed. The error says that it could not even try.
func Try(ctx context.Context, socket string, m Misdeed, a Ask) (attempts []Attempt, err error) {
	body, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	answer, err := control(ctx, socket, http.MethodPost, string(m), body)
	if err == nil {
		err = json.Unmarshal(answer, &attempts)
	}
	return attempts, err
}

// IsReady tells whether the rogue that is steered by a control socket serves agents.
func IsReady(ctx context.Context, socket string) error {
	_, err := control(ctx, socket, http.MethodGet, "ready", nil)
	return err
}

func control(ctx context.Context, socket, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://rogue/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the rogue: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(answer)))
	}
	if err != nil {
		return nil, fmt.Errorf("ask the rogue: %w", err)
	}
	return answer, nil
}
