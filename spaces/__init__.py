"""archrank.spaces"""
