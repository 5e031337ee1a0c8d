// The stargz snapshotter as a proxy plugin: Debian packages its library and ctr-remote, but not its daemon, nor all that
// the daemon's own main package imports. Built by script/stargz.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	stargzfs "github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

const labels = "containerd.io/snapshot/cri."

var hosts source.RegistryHosts = func(ref reference.Spec) ([]docker.RegistryHost, error) {
	client := &http.Client{Transport: http.DefaultTransport}
	options := []docker.RegistryOpt{docker.WithPlainHTTP(docker.MatchLocalhost), docker.WithClient(client)}
	return docker.ConfigureDefaultRegistries(options...)(ref.Hostname())
}

// sources finds a layer by the labels that an engine gives with a snapshot.
func sources(given map[string]string) ([]source.Source, error) {
	if given[labels+"image-ref"] == "" { // ctr-remote says it in stargz' own words
		return source.FromDefaultLabels(hosts)(given)
	}
	ref, err := reference.Parse(given[labels+"image-ref"])
	if err != nil {
		return nil, fmt.Errorf("label image-ref: %w", err)
	}
	target, err := digest.Parse(given[labels+"layer-digest"])
	if err != nil {
		return nil, fmt.Errorf("label layer-digest: %w", err)
	}
	var layers []ocispec.Descriptor
	for _, text := range strings.Split(given[labels+"image-layers"], ",") {
		if layer, err := digest.Parse(text); err == nil {
			layers = append(layers, ocispec.Descriptor{Digest: layer})
		}
	}
	found := source.Source{Hosts: hosts, Name: ref, Target: ocispec.Descriptor{Digest: target}}
	found.Manifest = ocispec.Manifest{Layers: layers}
	return []source.Source{found}, nil
}

// Usage: stargz-snapshotter ROOT SOCKET. SIGTERM unmounts everything and ends it.
func main() {
	root, address := os.Args[1], os.Args[2]
	settings := config.Config{NoPrometheus: true, NoPrefetch: true, NoBackgroundFetch: true}
	filesystem, err := stargzfs.NewFilesystem(filepath.Join(root, "stargz"), settings, stargzfs.WithGetSources(sources))
	if err != nil {
		log.Fatalf("filesystem: %v", err)
	}
	snapshotter, err := snapshot.NewSnapshotter(
		context.Background(), filepath.Join(root, "snapshotter"), filesystem, snapshot.AsynchronousRemove)
	if err != nil {
		log.Fatalf("snapshotter: %v", err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	listener, err := net.Listen("unix", address)
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Printf("serve: %v", err)
	}
	if err := snapshotter.Close(); err != nil {
		log.Fatalf("close: %v", err)
	}
}
