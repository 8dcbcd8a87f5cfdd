// Command opampserver is opamp-go's server, as its users start it, answering each message with as many bytes as the gateway does.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/open-telemetry/opamp-go/protobufs"
	"github.com/open-telemetry/opamp-go/server"
	"github.com/open-telemetry/opamp-go/server/types"

	"github.com/rollcall-dev/rollcall/test/bench/subject"
)

func main() {
	fmt.Fprintln(os.Stderr, "opampserver:", run())
	os.Exit(1)
}

// run serves until something is wrong.
func run() error {
	o, err := subject.Parse()
	if err != nil {
		return err
	}
	padding := make([]byte, max(0, o.Reply-overhead))
	callbacks := types.ConnectionCallbacks{
		OnMessage: func(_ context.Context, _ types.Connection, m *protobufs.AgentToServer) *protobufs.ServerToAgent {
			return &protobufs.ServerToAgent{
				InstanceUid:   m.GetInstanceUid(),
				Capabilities:  uint64(protobufs.ServerCapabilities_ServerCapabilities_AcceptsStatus),
				CustomMessage: &protobufs.CustomMessage{Data: padding},
			}
		},
	}
	s := server.New(nil)
	err = s.Start(server.StartSettings{
		Settings: server.Settings{Callbacks: types.Callbacks{
			OnConnecting: func(*http.Request) types.ConnectionResponse {
				return types.ConnectionResponse{Accept: true, ConnectionCallbacks: callbacks}
			},
		}},
		ListenEndpoint: "127.0.0.1:0", TLSConfig: o.TLS,
	})
	if err != nil {
		return err
	}
	subject.CollectOnSignal()
	subject.Announce(os.Stdout, s.Addr().String())
	select {}
}

// overhead is what an answer has beside its padding.
const overhead = 28
