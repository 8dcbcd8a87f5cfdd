package main

import (
	"errors"
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/flags"
)

// options are the command line.
type options struct {
	kubeconfig, namespace        string
	gatewayURL                   string
	gatewayNames                 []string
	gatewayTokenFile             string
	gatewayTokenRefresh          time.Duration
	leaderElect                  bool
	leaseDuration, renewDeadline time.Duration
	retryPeriod                  time.Duration
	healthListen, metricsListen  string
	beaconInterval               time.Duration
	orderKeyOverlap              time.Duration
	certificateLifetime          time.Duration
	renewalGrace, previousKey    time.Duration
	servingLifetime              time.Duration
	gatewayLease, gatewayGrace   time.Duration
	csrRetention, countInterval  time.Duration
	certificateExpiring          time.Duration
	reportMargin, childRetention time.Duration
	tokenHour                    time.Duration
	artifactStore, sourceCAFile  string
	artifactStoreShared          bool
	releaseCount, artifactCheck  time.Duration
	log                          flags.Log
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := pflag.NewFlagSet("rollcall-manager", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as a Pod does")
	f.StringVar(&o.namespace, "namespace", "rollcall-system", "where keys, trust and Leases are kept")
	f.StringSliceVar(&o.gatewayNames, "gateway-names", nil, "DNS names and IP addresses that a gateway's certificate may have, comma separated")
	f.StringVar(&o.gatewayURL, "gateway-url", "", "where install lines send agents (default https://<the first of --gateway-names>:8443)")
	f.StringVar(&o.gatewayTokenFile, "gateway-token-file", "", "where to write the API token of the gateway beside this manager; empty: nowhere")
	f.DurationVar(&o.gatewayTokenRefresh, "gateway-token-refresh", 20*time.Minute, "how often to write a new one; each is good for an hour")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "let one of several managers lead")
	f.DurationVar(&o.leaseDuration, "leader-lease-duration", 15*time.Second, "how long others wait for a leader that is silent")
	f.DurationVar(&o.renewDeadline, "leader-renew-deadline", 10*time.Second, "how long a leader tries to renew before it gives up")
	f.DurationVar(&o.retryPeriod, "leader-retry-period", 2*time.Second, "pause between tries to become or stay leader")
	f.StringVar(&o.healthListen, "health-listen", ":8081", "address of /healthz and /readyz; empty: none")
	f.StringVar(&o.metricsListen, "metrics-listen", ":8080", "address of /metrics; empty: none")
	f.DurationVar(&o.beaconInterval, "beacon-interval", time.Minute, "how often agents are told the time, signed")
	f.DurationVar(&o.orderKeyOverlap, "order-key-overlap", 7*24*time.Hour, "how long a replaced order key is still believed; of one that has leaked: 1s")
	f.DurationVar(&o.certificateLifetime, "certificate-lifetime", 30*24*time.Hour, "of agents' certificates; they renew at two thirds")
	f.DurationVar(&o.renewalGrace, "renewal-grace", 30*24*time.Hour, "how long an expired certificate still renews")
	f.DurationVar(&o.previousKey, "previous-key-lifetime", 24*time.Hour, "how long the old key is accepted after a renewal")
	f.DurationVar(&o.servingLifetime, "serving-lifetime", 72*time.Hour, "of gateways' serving certificates")
	f.DurationVar(&o.gatewayLease, "gateway-lease-duration", 15*time.Second, "a gateway whose Lease is not renewed for this long is silent")
	f.DurationVar(&o.gatewayGrace, "gateway-grace", 3*time.Minute, "a gateway that is silent for this long is gone")
	f.DurationVar(&o.csrRetention, "csr-retention", 10*time.Second, "how long an answered certificate request is kept for the gateway to see")
	f.DurationVar(&o.countInterval, "count-interval", time.Minute, "how often the endpoints of a policy are counted, at most")
	f.DurationVar(&o.certificateExpiring, "certificate-expiring", 5*24*time.Hour, "an endpoint whose certificate ends sooner is unhealthy: it should have renewed")
	f.DurationVar(&o.reportMargin, "report-margin", 15*time.Minute, "how long after its deadlines an agent that was sent an action may report of it, at least; three heartbeats in any case")
	f.DurationVar(&o.childRetention, "child-retention", 24*time.Hour, "how long children that succeeded are kept after their action with a selector has ended")
	f.StringVar(&o.artifactStore, "artifact-store", "file:///var/lib/rollcall/artifacts", "where the artifacts of releases are kept for gateways: a directory that those beside this manager see (file:///...), or a bucket of an object store that speaks S3, for all (s3://bucket?region=...)")
	f.BoolVar(&o.artifactStoreShared, "artifact-store-shared", false, "the directory of --artifact-store is a volume that gateways which run apart have, too")
	f.StringVar(&o.sourceCAFile, "source-ca-file", "", "certificate authorities in PEM to believe of https sources, besides the system's")
	f.DurationVar(&o.artifactCheck, "artifact-check-interval", 10*time.Minute, "how often artifacts in the store are verified again, and those that no release names any more are deleted")
	f.DurationVar(&o.releaseCount, "release-count-interval", 10*time.Second, "how often it is counted who has a release, at most")
	f.DurationVar(&o.tokenHour, "token-hour", time.Hour, "how long an hour of a token's expiresAfterHours is: another length is for tests")
	o.log.Add(f)
	faults.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return o, o.check(f)
}

// notShared tells whether gateways may not see what is in a store. One beside this manager, which has its token from it, sees its directory.
func (o *options) notShared(s *artifact.Store) bool {
	return s.Directory && !o.artifactStoreShared && o.gatewayTokenFile == ""
}

func (o *options) check(f *pflag.FlagSet) error {
	wrong := flags.Check(f, &o.log)
	if len(o.gatewayNames) == 0 {
		wrong = append(wrong, errors.New("--gateway-names is missing: say by which DNS names and IP addresses agents reach the gateways, or none can get a certificate"))
	}
	if len(wrong) == 0 && o.gatewayURL == "" {
		o.gatewayURL = "https://" + net.JoinHostPort(o.gatewayNames[0], "8443")
	}
	return errors.Join(wrong...)
}
