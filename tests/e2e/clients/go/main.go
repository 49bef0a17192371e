// Go paho in the scenario of tests/e2e/tests/five.rs: subscribe, say "ready", wait for a line, publish, see what all publish.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strconv"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func give(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

func await(token mqtt.Token) {
	if !token.WaitTimeout(30*time.Second) || token.Error() != nil {
		give(token.Error())
	}
}

func main() {
	port, name := os.Args[1], os.Args[2]
	expected, err := strconv.Atoi(os.Args[4])
	if err != nil {
		give(err)
	}
	messages := make(chan string, 1024)
	options := mqtt.NewClientOptions().AddBroker("tcp://127.0.0.1:" + port).SetClientID(name).SetProtocolVersion(4)
	client := mqtt.NewClient(options)
	await(client.Connect())
	await(client.Subscribe("five/#", 2, func(_ mqtt.Client, m mqtt.Message) {
		messages <- fmt.Sprintf("%s %s %d", m.Topic(), m.Payload(), m.Qos())
	}))
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		give(err)
	}
	for qos := byte(0); qos < 3; qos++ {
		await(client.Publish(fmt.Sprintf("five/%s/%d", name, qos), qos, false, fmt.Sprintf("%s says %d", name, qos)))
	}
	seen := map[string]bool{}
	limit := time.After(60 * time.Second)
	for len(seen) < expected {
		select {
		case message := <-messages:
			seen[message] = true
		case <-limit:
			give(fmt.Sprintf("only %v", seen))
		}
	}
	lines := make([]string, 0, len(seen))
	for line := range seen {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	client.Disconnect(250)
}
