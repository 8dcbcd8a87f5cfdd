package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/flags"
)

// options are the command line.
type options struct {
	kubeconfig, tokenFile       string
	namespace, podName          string
	listen, healthListen        string
	names                       []string
	leaseDuration, leaseRenew   time.Duration
	servingRenew                time.Duration
	maxHandshakes, maxStrangers int
	maxConnections              int
	handshakeTimeout            time.Duration
	bodyTimeout, idleTimeout    time.Duration
	perSource, perToken, total  float64
	renewSpacing                time.Duration
	certificateWait             time.Duration
	beatSpacing                 time.Duration
	beatBurst                   int
	latePackets                 time.Duration
	firstMessage, sessionSlack  time.Duration
	pingInterval, sessionSweep  time.Duration
	downAfter, seenRefresh      time.Duration
	messageRate, sessionRate    float64
	messageBurst, maxUnanswered int
	drainSpread                 time.Duration
	artifactStore               string
	maxDownloads, downloadRate  int
	actionRepeat, actionRuns    time.Duration
	actionWait                  time.Duration
	writeRate                   float64
	drainTimeout                time.Duration
	log                         flags.Log
}

func parse(args []string) (*options, error) {
	o := &options{}
	host, err := os.Hostname()
	if err != nil {
		host = "gateway"
	}
	f := pflag.NewFlagSet("rollcall-gateway", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as a Pod does")
	f.StringVar(&o.tokenFile, "token-file", "", "API token to use instead of the kubeconfig's or the Pod's; it need not exist yet, and is read again when it changes")
	f.StringVar(&o.namespace, "namespace", "rollcall-system", "where the manager publishes trust and beacon, and gateways keep their Leases")
	f.StringVar(&o.podName, "pod-name", host, "a part of this gateway's name is made from it")
	f.StringVar(&o.listen, "listen", ":8443", "address for agents: TLS 1.2 only")
	f.StringSliceVar(&o.names, "names", nil, "DNS names and IP addresses by which agents reach this gateway, comma separated; the manager's --gateway-names must have them")
	f.StringVar(&o.healthListen, "health-listen", ":8083", "address of /livez, /readyz and /metrics; empty: none")
	f.DurationVar(&o.leaseDuration, "lease-duration", 15*time.Second, "how long the Lease is good that says this gateway lives")
	f.DurationVar(&o.leaseRenew, "lease-renew", 5*time.Second, "how often it is renewed")
	f.DurationVar(&o.servingRenew, "serving-renew", 24*time.Hour, "age at which the serving certificate is renewed, or at half of its life if that is less")
	f.IntVar(&o.maxHandshakes, "max-handshakes", 256, "TLS handshakes under way at once; beyond it whoever has most makes room")
	f.IntVar(&o.maxStrangers, "max-strangers", 512, "connections at once that nobody has authenticated on; likewise")
	f.IntVar(&o.maxConnections, "max-connections", 16384, "connections at once of agents; likewise")
	f.DurationVar(&o.handshakeTimeout, "handshake-timeout", 5*time.Second, "for a handshake and the headers of the first request")
	f.DurationVar(&o.bodyTimeout, "body-timeout", 30*time.Second, "for the body of a request")
	f.DurationVar(&o.idleTimeout, "idle-timeout", 90*time.Second, "how long a connection is kept without a request")
	f.Float64Var(&o.perSource, "enroll-rate-source", 1, "enrolments and renewals a second from one address, five times as many at once")
	f.Float64Var(&o.perToken, "enroll-rate-token", 10, "enrolments a second with one token")
	f.Float64Var(&o.total, "enroll-rate-total", 50, "enrolments and renewals a second in all")
	f.DurationVar(&o.renewSpacing, "renew-spacing", time.Minute, "between two different renewals of one endpoint")
	f.DurationVar(&o.certificateWait, "certificate-wait", 10*time.Second, "how long an agent waits for the manager's answer before it is told to ask again")
	f.DurationVar(&o.beatSpacing, "heartbeat-spacing", 10*time.Second, "between heartbeats of one endpoint on average, or half of its interval if that is less")
	f.IntVar(&o.beatBurst, "heartbeat-burst", 4, "heartbeats of one endpoint at once")
	f.DurationVar(&o.latePackets, "late-packets", time.Minute, "how long after an agent's restart its earlier start may be heard of and is not taken for a clone")
	f.Float64Var(&o.sessionRate, "session-rate", 200, "websockets a second that may begin, and a second's worth at once; the others are told when to come again")
	f.DurationVar(&o.firstMessage, "first-message-timeout", 10*time.Second, "for the first message on a websocket")
	f.DurationVar(&o.pingInterval, "ping-interval", 30*time.Second, "how often an agent whose policy says nothing gives a sign of life on a websocket")
	f.DurationVar(&o.sessionSlack, "session-slack", 40*time.Second, "a websocket is closed that is silent for twice its ping interval and this")
	f.DurationVar(&o.sessionSweep, "session-sweep", time.Second, "how often all websockets are looked at for silence")
	f.DurationVar(&o.downAfter, "session-down-after", 30*time.Second, "how long after a websocket's end the endpoint is recorded as not connected, if it was not heard of since")
	f.DurationVar(&o.seenRefresh, "seen-refresh", time.Hour, "how often it is recorded when an endpoint on a websocket was last heard of")
	f.Float64Var(&o.messageRate, "message-rate", 20, "messages a second of one agent on its websocket, or of its reports on actions over HTTPS")
	f.IntVar(&o.messageBurst, "message-burst", 60, "messages of one agent at once")
	f.IntVar(&o.maxUnanswered, "max-unanswered", 8, "messages of one agent that may wait for an answer")
	f.DurationVar(&o.actionRepeat, "action-repeat", 30*time.Second, "after how long an action is sent again on the same websocket that the agent has not acknowledged")
	f.DurationVar(&o.actionRuns, "action-running-after", 2*time.Second, "how long an action must run before that is recorded")
	f.DurationVar(&o.actionWait, "action-wait", 2*time.Second, "how long the answer to a heartbeat over HTTPS waits until actions for it are recorded as sent; the agent asks for later ones at once")
	f.StringVar(&o.artifactStore, "artifact-store", "file:///var/lib/rollcall/artifacts", "where the manager keeps the artifacts of releases: a directory (file:///...) or a bucket (s3://bucket?region=...)")
	f.IntVar(&o.maxDownloads, "max-downloads", 64, "downloads of artifacts at once; the others are told to come again")
	f.IntVar(&o.downloadRate, "download-rate", 32<<20, "bytes a second of all downloads together, so that heartbeats need not wait for them; 0: unlimited")
	f.Float64Var(&o.writeRate, "write-rate", 100, "writes a second to the status of Endpoints; those of actions are never held back")
	f.DurationVar(&o.drainTimeout, "drain-timeout", 20*time.Second, "after SIGTERM: half of it for websockets to move to other gateways, a quarter each for requests under way and for what waits to be written")
	f.DurationVar(&o.drainSpread, "drain-spread", 5*time.Second, "over how long the websockets of many agents are closed after SIGTERM; of few, less")
	o.log.Add(f)
	faults.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return o, o.check(f)
}

func (o *options) check(f *pflag.FlagSet) error {
	wrong := flags.Check(f, &o.log)
	if len(o.names) == 0 {
		wrong = append(wrong, errors.New("--names is missing: say by which DNS names and IP addresses agents reach this gateway, or they cannot verify it"))
	}
	return errors.Join(wrong...)
}

// podFiles is where a Pod has what it knows of its API server.
const podFiles = "/var/run/secrets/kubernetes.io/serviceaccount"

// apiServer is how to reach it, as whom.
func (o *options) apiServer() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig == "" && o.tokenFile != "" {
		config, err = fromPod(podFiles)
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server (--kubeconfig): %w", err)
	}
	if o.tokenFile != "" {
		config = rest.AnonymousClientConfig(config)
		config.BearerTokenFile = o.tokenFile
	}
	config.UserAgent = "rollcall-gateway"
	return config, nil
}

// fromPod is the API server as a Pod knows it, by address rather than by name, so that no DNS is needed. client-go's own way asks for a token in
// the same directory: ours comes by another way, and later.
func fromPod(dir string) (*rest.Config, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, rest.ErrNotInCluster
	}
	ca := filepath.Join(dir, "ca.crt")
	if _, err := os.Stat(ca); err != nil {
		return nil, fmt.Errorf("the cluster's CA is not mounted: %w", err)
	}
	return &rest.Config{Host: "https://" + net.JoinHostPort(host, port), TLSClientConfig: rest.TLSClientConfig{CAFile: ca}}, nil
}

// gatewayName is new at each start: a crash within the life of a Lease leaves no ghost. It keeps the end of the Pod's name, where the
// replicas differ.
func gatewayName(pod string) string {
	kept := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(pod))
	kept = kept[max(0, len(kept)-5):]
	for len(kept) < 5 {
		kept += "0"
	}
	return "gw-" + kept + "-" + strings.ToLower(rand.Text()[:5])
}
