"""FedAvg and FedDIP under Flower, on pictures that are made up."""
