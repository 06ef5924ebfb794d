"""archrank.supernet"""
