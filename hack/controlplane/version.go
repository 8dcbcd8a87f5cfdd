package controlplane

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// DefaultVersion is the version of Kubernetes that the nested module pins.
const DefaultVersion = "1.37.2"

// VersionEnv names the environment variable that asks for another patch of
// the same minor version.
const VersionEnv = "KUBERNETES_VERSION"

var patchPattern = regexp.MustCompile(`^1\.37\.(0|[1-9][0-9]{0,2})$`)

// resolveVersion returns the version to build, without the leading v.
func resolveVersion(asked string) (string, error) {
	v := strings.TrimPrefix(cmp.Or(asked, os.Getenv(VersionEnv), DefaultVersion), "v")
	if !patchPattern.MatchString(v) {
		return "", fmt.Errorf("cannot build Kubernetes %q here: give a patch of 1.37, such as %s=%s, or point %s at ready binaries",
			v, VersionEnv, DefaultVersion, AssetsEnv)
	}
	return v, nil
}

// moduleAt rewrites the nested module's go.mod from DefaultVersion to another
// patch: Kubernetes itself and its staging modules, which count 0.37.x.
func moduleAt(goMod, version string) string {
	return atVersion(atVersion(goMod, "v"+DefaultVersion, "v"+version), staging(DefaultVersion), staging(version))
}

func atVersion(goMod, from, to string) string {
	line := regexp.MustCompile(`(?m)((?:^|\s)k8s\.io/\S+ )` + regexp.QuoteMeta(from) + `(\s|$)`)
	return line.ReplaceAllString(goMod, "${1}"+to+"${2}")
}

func staging(version string) string {
	return "v0." + strings.TrimPrefix(version, "1.")
}
